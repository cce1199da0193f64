"""Writes the clean classes `hlrp/policies/lerobot/*.py`, and their stubs `*.pyi`, from LeRobot's configuration classes.

    python scripts/make_policy_classes.py            write them
    python scripts/make_policy_classes.py --check    exit 1, with the difference, if they are not up to date

A class takes every field of LeRobot's configuration, the aliases of `hlrp/aliases.py`, and the options of
`LeRobotPolicyAdapter`. Its stub has their types and defaults; its docstring says what the fields mean, in the words of
LeRobot's docstrings and comments (`scripts/policy_fields.py`).
"""

import argparse
import dataclasses
import difflib
import enum
import re
import subprocess
import sys
import tempfile
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from policy_fields import NOTHING_SAID, TITLES, adapter_options, first_sentence, meanings

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "hlrp" / "policies" / "lerobot"
NOTE = "Made by scripts/make_policy_classes.py: run it, do not edit."
SOURCES = ("lerobot", "lerobot_policy_felix_bundle")
HOMES = {
    "Any": "typing",
    "Mapping": "collections.abc",
    "Path": "pathlib",
    "SampleWeighter": "lerobot.utils.sample_weighting",
    "Sequence": "collections.abc",
}
"""Where names in annotations are imported from, but for LeRobot's own types."""
NAMES = {"PI0": "Pi0", "PI05": "Pi05", "PI0Fast": "Pi0Fast"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One argument of a clean class: its type and default as source text."""

    name: str
    type: str
    default: str


class Types:
    """Annotations as source text, and what must be imported for them."""

    def __init__(self) -> None:
        self.imports: dict[str, set[str]] = {}

    def text(self, hint: Any) -> str:
        """The annotation of a parameter that takes this type."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return self.use("Any")
        if hint is None or hint is type(None):
            return "None"
        if origin in (typing.Union, types.UnionType):
            return " | ".join(dict.fromkeys(self.text(a) for a in arguments))
        if origin is typing.Literal:
            return f"{self.use('Literal')}[{', '.join(map(repr, arguments))}]"
        if hint in (tuple, list, dict):
            self.use("Any")
            arguments = (str, Any) if hint is dict else (Any, ...) if hint is tuple else (Any,)
            origin = hint
        if origin is tuple:
            return f"tuple[{', '.join('...' if a is ... else self.text(a) for a in arguments)}]"
        if origin is list:
            # What is asked for is wider than LeRobot's own: its dict and list are invariant.
            return f"{self.use('Sequence')}[{self.text(arguments[0])}]"
        if origin is dict:
            return f"{self.use('Mapping')}[{self.text(arguments[0])}, {self.text(arguments[1])}]"
        return self._class(hint)

    def _class(self, hint: type) -> str:
        if hint is Path:
            return f"{self.use('Path')} | str"
        if hint.__module__ == "builtins":
            return hint.__name__
        if hint.__module__.partition(".")[0] != "lerobot":
            raise TypeError(f"a type outside LeRobot: {hint!r}")
        self.use(hint.__name__, hint.__module__)
        if issubclass(hint, enum.Enum):
            return f"{hint.__name__} | str"
        if dataclasses.is_dataclass(hint):
            return f"{hint.__name__} | {self.use('Mapping')}[str, {self.use('Any')}]"
        raise TypeError(f"no text for {hint!r}")

    def use(self, name: str, module: str | None = None) -> str:
        """Import a name, by default from its place in `HOMES`."""
        self.imports.setdefault(module or HOMES[name], set()).add(name)
        return name


def default_text(field: dataclasses.Field[Any]) -> str:
    """The default as source text."""
    from hlrp.policies.clean import plain

    if field.default_factory is not dataclasses.MISSING:
        return repr(plain(field.default_factory()))
    if field.default is dataclasses.MISSING:
        raise TypeError(f"field {field.name} has no default")
    value = field.default
    return repr(value if isinstance(value, tuple) else plain(value))


def aliases_of(policy_type: str, config: type) -> dict[str, list[str]]:
    """Field to its other names, without those that are fields themselves."""
    from hlrp.aliases import policy_aliases

    fields = {f.name for f in dataclasses.fields(config) if f.init}
    found: dict[str, list[str]] = {}
    for alias, target in policy_aliases(policy_type).items():
        if target in fields and alias not in fields:
            found.setdefault(target, []).append(alias)
    return found


def parameters(policy_type: str, config: type, types_: Types) -> list[Parameter]:
    """All arguments of a policy's class: its fields, their aliases, the adapter's options."""
    hints = typing.get_type_hints(config)
    fields = [f for f in dataclasses.fields(config) if f.init]
    found = {f.name: Parameter(f.name, types_.text(hints[f.name]), default_text(f)) for f in fields}
    for target, aliases in aliases_of(policy_type, config).items():
        found |= {alias: dataclasses.replace(found[target], name=alias) for alias in aliases}
    for name, text, default in adapter_options():
        if name in found and name != "init_from":
            continue  # a field of the same meaning, which the adapter sets
        for used in HOMES.keys() & set(re.findall(r"\w+", text)):
            types_.use(used)
        found[name] = Parameter(name, text, default)
    return list(found.values())


def class_name(config: type) -> str:
    """`ACT` for `ACTConfig`."""
    name = config.__name__.removesuffix("Config")
    return NAMES.get(name, name)


def _docstring(policy_type: str, config: type) -> str:
    own = config.__doc__ or ""
    about = "" if own.startswith(f"{config.__name__}(") else first_sentence(own.strip().partition("\n\n")[0])
    title = TITLES.get(policy_type) or about or config.__name__
    said, fields = meanings(config), [f.name for f in dataclasses.fields(config) if f.init]
    described = [f"{name}: {said[name]}" for name in fields if said.get(name, NOTHING_SAID) != NOTHING_SAID]
    aliases = aliases_of(policy_type, config)
    others = "; ".join(f"{', '.join(f'`{name}`' for name in names)} for `{field}`" for field, names in aliases.items())
    lines = [f'    """{title.rstrip(".")}.', ""]
    lines += [f"    LeRobot's policy `{policy_type}`, trained by Lightning; `CleanPolicy` says what all policies take."]
    if others:
        lines += textwrap.wrap(f"Other names: {others}.", 118, initial_indent=" " * 4, subsequent_indent=" " * 4)
    lines += ["", "    Args:"] if described else []
    for text in described:
        plain = text.replace("\\", "/").replace('"""', "'''")
        hanging = {"initial_indent": " " * 8, "subsequent_indent": " " * 12}
        lines += textwrap.wrap(plain, 118, break_on_hyphens=False, **hanging)  # type: ignore[arg-type]
    return "\n".join([*lines, '    """'])


def module_texts(policy_type: str, config: type) -> dict[str, str]:
    """File name to text, not yet formatted, of one policy: its module and the stub of that."""
    types_, name = Types(), class_name(config)
    arguments = [f"        {p.name}: {p.type} = {p.default}," for p in parameters(policy_type, config, types_)]
    opening = f'"""`{name}`: LeRobot\'s policy `{policy_type}` as a class. {NOTE}"""\n'
    shared = "from hlrp.policies.clean import CleanPolicy\n"
    start = f"\nclass {name}(CleanPolicy):"
    module = [opening, shared, start, _docstring(policy_type, config), f'\n    lerobot_type = "{policy_type}"\n']
    imports = [f"from {home} import {', '.join(sorted(names))}" for home, names in types_.imports.items()]
    init = ["    def __init__(\n        self,\n        *,", *arguments, "    ) -> None: ...\n"]
    stub = [f"# {NOTE}\n", *imports, shared, start, *init]
    return {f"{policy_type}.py": "\n".join(module), f"{policy_type}.pyi": "\n".join(stub)}


def package_texts(classes: dict[str, str]) -> dict[str, str]:
    """File name to text, not yet formatted, of the package: names that are imported when they are asked for.

    Args:
        classes: Module to class.
    """
    ordered = sorted(classes.items(), key=lambda item: item[1])
    module = [
        f'"""Clean classes of LeRobot\'s policies: every field an argument, trained by Lightning.\n\n{NOTE}\n"""\n',
        "from importlib import import_module\nfrom typing import Any\n",
        f"_LAZY = {{{', '.join(f'{name!r}: {module!r}' for module, name in ordered)}}}",
        "\n__all__ = list(_LAZY)",
        '\n\ndef __getattr__(name: str) -> Any:\n    if name not in _LAZY:\n        raise AttributeError(f"module'
        ' {__name__!r} has no attribute {name!r}")',
        '    return getattr(import_module(f"hlrp.policies.lerobot.{_LAZY[name]}"), name)',
        "\n\ndef __dir__() -> list[str]:\n    return __all__\n",
    ]
    imports = [f"from hlrp.policies.lerobot.{module} import {name} as {name}" for module, name in classes.items()]
    return {"__init__.py": "\n".join(module), "__init__.pyi": "\n".join([f"# {NOTE}\n", *imports, ""])}


def generate() -> dict[str, str]:
    """File name to formatted text, of every policy that LeRobot and this project register."""
    from lerobot.configs.policies import PreTrainedConfig

    from hlrp.catalog import build_catalog

    build_catalog()
    classes: dict[str, str] = {}
    texts: dict[str, str] = {}
    for policy_type, config in sorted(PreTrainedConfig.get_known_choices().items()):
        if config.__module__.partition(".")[0] in SOURCES:
            texts |= module_texts(policy_type, config)
            classes[policy_type] = class_name(config)
    texts |= package_texts(classes)
    return formatted(texts)


def formatted(texts: dict[str, str]) -> dict[str, str]:
    """The texts of files, by name, as ruff has them in this project."""
    ruff = str(Path(sys.executable).with_name("ruff"))
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(text, encoding="utf8")
        for command in (["check", "--select", "I", "--fix-only"], ["format"]):
            subprocess.run([ruff, *command, "--quiet", "--config", "pyproject.toml", folder], check=True, cwd=ROOT)
        return {name: (Path(folder) / name).read_text(encoding="utf8") for name in sorted(texts)}


def differences(texts: dict[str, str]) -> str:
    """What would change in the folder, as a unified difference; empty if nothing would."""
    on_disk = {path.name: path.read_text(encoding="utf8") for path in TARGET.glob("*.py*")}
    lines: list[str] = []
    for name in sorted({*texts, *on_disk}):
        before, after = (side.get(name, "").splitlines(keepends=True) for side in (on_disk, texts))
        lines += difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", n=0)
    return "".join(lines)


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something would change")
    check, texts = parser.parse_args().check, generate()
    if check:
        found = differences(texts)
        print(found or "up to date", end="" if found else "\n")
        return int(bool(found))
    TARGET.mkdir(exist_ok=True)
    for path in set(TARGET.glob("*.py*")) - {TARGET / name for name in texts}:
        path.unlink()
    for name, text in texts.items():
        (TARGET / name).write_text(text, encoding="utf8")
    print(f"{len(texts) // 2 - 1} classes in {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
