"""Writes the clean classes `hlrp/policies/lerobot/*.py` from LeRobot's configuration classes.

    python scripts/make_policy_classes.py            write them
    python scripts/make_policy_classes.py --check    exit 1, with the difference, if they are not up to date

A class has every field of LeRobot's configuration with its type, default and meaning; the aliases of
`hlrp/config/aliases.py`; and the options of `LeRobotPolicyAdapter`. Meanings are taken from LeRobot's docstrings and
comments (`scripts/policy_fields.py`).
"""

import argparse
import dataclasses
import difflib
import enum
import subprocess
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from policy_fields import TITLES, adapter_options, first_sentence, meanings

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "hlrp" / "policies" / "lerobot"
NOTE = "Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit."
SOURCES = ("lerobot", "lerobot_policy_felix_bundle")
NAMES = {"PI0": "Pi0", "PI05": "Pi05", "PI0Fast": "Pi0Fast"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One argument of a clean class, as source text."""

    name: str
    type: str
    default: str
    meaning: str


class Types:
    """Annotations as source text, and what must be imported for them."""

    def __init__(self) -> None:
        self.imports: dict[str, set[str]] = {}
        self.lazy: dict[str, set[str]] = {}

    def text(self, hint: Any) -> str:
        """The annotation of a parameter that takes this type; quoted where it names one of LeRobot's own."""
        before = {module: set(names) for module, names in self.lazy.items()}
        self.lazy = {}
        text = self._of(hint)
        quoted, self.lazy = bool(self.lazy), {**before, **{m: before.get(m, set()) | n for m, n in self.lazy.items()}}
        return f'"{text}"' if quoted else text

    def _of(self, hint: Any) -> str:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return self._import("typing", "Any")
        if hint is None or hint is type(None):
            return "None"
        if origin in (typing.Union, types.UnionType):
            return " | ".join(dict.fromkeys(self._of(a) for a in arguments))
        if origin is typing.Literal:
            return f"{self._import('typing', 'Literal')}[{', '.join(map(repr, arguments))}]"
        if hint in (tuple, list, dict):
            self._import("typing", "Any")
            arguments = (str, Any) if hint is dict else (Any, ...) if hint is tuple else (Any,)
            origin = hint
        if origin is tuple:
            return f"tuple[{', '.join('...' if a is ... else self._of(a) for a in arguments)}]"
        if origin is list:
            # What is asked for is wider than LeRobot's own: its dict and list are invariant.
            return f"{self._import('collections.abc', 'Sequence')}[{self._of(arguments[0])}]"
        if origin is dict:
            return f"{self._import('collections.abc', 'Mapping')}[{self._of(arguments[0])}, {self._of(arguments[1])}]"
        return self._class(hint)

    def _class(self, hint: type) -> str:
        if hint is Path:
            return f"{self._import('pathlib', 'Path')} | str"
        if hint.__module__ == "builtins":
            return hint.__name__
        self.lazy.setdefault(hint.__module__, set()).add(hint.__name__)
        if issubclass(hint, enum.Enum):
            return f"{hint.__name__} | str"
        if dataclasses.is_dataclass(hint):
            any_, mapping = self._import("typing", "Any"), self._import("collections.abc", "Mapping")
            return f"{hint.__name__} | {mapping}[str, {any_}]"
        raise TypeError(f"no text for {hint!r}")

    def _import(self, module: str, name: str) -> str:
        self.imports.setdefault(module, set()).add(name)
        return name


def default_text(field: dataclasses.Field[Any]) -> str:
    """The default as source text; what could be changed is shown as `frozen(...)`."""
    from hlrp.policies.clean import plain

    if field.default_factory is not dataclasses.MISSING:
        return f"frozen({plain(field.default_factory())!r})"
    if field.default is dataclasses.MISSING:
        raise TypeError(f"field {field.name} has no default")
    value = field.default
    return repr(value if isinstance(value, tuple) else plain(value))


def parameters(policy_type: str, config: type, types_: Types) -> list[Parameter]:
    """All arguments of a policy's class: its fields, their aliases, the adapter's options."""
    from hlrp.config.aliases import policy_aliases

    hints, said = typing.get_type_hints(config), meanings(config)
    fields = [f for f in dataclasses.fields(config) if f.init]
    found = {f.name: Parameter(f.name, types_.text(hints[f.name]), default_text(f), said[f.name]) for f in fields}
    for alias, target in policy_aliases(policy_type).items():
        if target in found and alias not in found:
            found[alias] = dataclasses.replace(found[target], name=alias, meaning=f"Another name of `{target}`.")
    for name, text, default, meaning in adapter_options():
        if name in found and name != "init_from":
            continue  # a field of the same meaning, which the adapter sets
        for module, used in (("collections.abc", "Mapping"), ("typing", "Any"), ("pathlib", "Path")):
            if used in text:
                types_.imports.setdefault(module, set()).add(used)
        weighter = "SampleWeighter" in text
        if weighter:
            types_.lazy.setdefault("lerobot.utils.sample_weighting", set()).add("SampleWeighter")
        found[name] = Parameter(name, f'"{text}"' if weighter else text, default, meaning)
    return list(found.values())


def class_name(config: type) -> str:
    """`ACT` for `ACTConfig`."""
    name = config.__name__.removesuffix("Config")
    return NAMES.get(name, name)


def _docstring(policy_type: str, config: type, found: list[Parameter]) -> str:
    own = config.__doc__ or ""
    about = "" if own.startswith(f"{config.__name__}(") else first_sentence(own.strip().partition("\n\n")[0])
    title = TITLES.get(policy_type) or about or config.__name__
    lines = [f'    """{title.rstrip(".")}.', ""]
    lines += [f"    LeRobot's policy `{policy_type}`, trained by Lightning. Fields that are not given are LeRobot's"]
    lines += ["    defaults, or those of the checkpoint that it starts from."]
    lines += ["", "    Args:"]
    for parameter in found:
        text = f"{parameter.name}: {parameter.meaning}".replace("\\", "/").replace('"""', "'''")
        indent = {"initial_indent": " " * 8, "subsequent_indent": " " * 12, "break_on_hyphens": False}
        lines += textwrap.wrap(text, 118, **indent)  # type: ignore[arg-type]
    return "\n".join([*lines, '    """'])


def module_text(policy_type: str, config: type) -> str:
    """The module of one policy, not yet formatted."""
    types_ = Types()
    found = parameters(policy_type, config, types_)
    name, arguments = class_name(config), "\n".join(f"        {p.name}: {p.type} = {p.default}," for p in found)
    lazy = {m: n for m, n in types_.lazy.items() if m.partition(".")[0] == "lerobot"}
    if lazy != types_.lazy:
        raise TypeError(f"{policy_type}: types outside LeRobot: {sorted(types_.lazy)}")
    if lazy:
        types_.imports.setdefault("typing", set()).add("TYPE_CHECKING")
    helpers = ["CleanPolicy", "as_given", *(["frozen"] if "frozen(" in arguments else [])]
    imports = [f"from {m} import {', '.join(sorted(n))}" for m, n in sorted(types_.imports.items())]
    own = f"from hlrp.policies.clean import {', '.join([*helpers, 'maker_for_dataset', 'maker_from_pretrained'])}"
    checking = [f"    from {m} import {', '.join(sorted(n))}" for m, n in sorted(lazy.items())]
    return "\n".join(
        [
            f'"""`{name}`: the clean class of LeRobot\'s policy `{policy_type}`.\n\n{NOTE}\n"""\n',
            *imports,
            "",
            own,
            *(["", "if TYPE_CHECKING:", *checking] if checking else []),
            f"\n\nclass {name}(CleanPolicy):",
            _docstring(policy_type, config, found),
            f'\n    lerobot_type = "{policy_type}"',
            "\n    @as_given\n    def __init__(\n        self,\n        *,",
            arguments,
            "    ) -> None: ...\n",
            "    from_dataset = maker_for_dataset(__init__)",
            "    from_pretrained = maker_from_pretrained(__init__)  # type: ignore[assignment]\n",
        ]
    )


def package_text(classes: dict[str, str]) -> str:
    """`__init__.py`, not yet formatted: names that are imported when they are asked for.

    Args:
        classes: Module to class.
    """
    ordered = sorted(classes.items(), key=lambda item: item[1])
    return "\n".join(
        [
            f'"""Clean classes of LeRobot\'s policies: every field an argument, trained by Lightning.\n\n{NOTE}\n"""\n',
            "from importlib import import_module\nfrom typing import TYPE_CHECKING, Any\n\nif TYPE_CHECKING:",
            *[f"    from hlrp.policies.lerobot.{module} import {name}" for module, name in sorted(classes.items())],
            f"\n_LAZY = {{{', '.join(f'{name!r}: {module!r}' for module, name in ordered)}}}",
            f"\n__all__ = [{', '.join(repr(name) for _, name in ordered)}]",
            '\n\ndef __getattr__(name: str) -> Any:\n    if name not in _LAZY:\n        raise AttributeError(f"module'
            ' {__name__!r} has no attribute {name!r}")',
            '    return getattr(import_module(f"hlrp.policies.lerobot.{_LAZY[name]}"), name)',
            "\n\ndef __dir__() -> list[str]:\n    return __all__\n",
        ]
    )


def generate() -> dict[str, str]:
    """File name to formatted text, of every policy that LeRobot and this project register."""
    from lerobot.configs.policies import PreTrainedConfig

    from hlrp.catalog import build_catalog

    build_catalog()
    classes, texts = {}, {}
    for policy_type, config in sorted(PreTrainedConfig.get_known_choices().items()):
        if config.__module__.partition(".")[0] in SOURCES:
            texts[f"{policy_type}.py"] = module_text(policy_type, config)
            classes[policy_type] = class_name(config)
    texts["__init__.py"] = package_text(classes)
    return {name: _format(name, text) for name, text in sorted(texts.items())}


def _format(name: str, text: str) -> str:
    ruff, place = str(Path(sys.executable).with_name("ruff")), str(TARGET / name)
    for command in (["check", "--select", "I,RUF022", "--fix-only", "--quiet"], ["format", "--quiet"]):
        argv = [ruff, *command, "--stdin-filename", place, "-"]
        text = subprocess.run(argv, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def differences(texts: dict[str, str]) -> str:
    """What would change in the folder, as a unified difference; empty if nothing would."""
    on_disk = {path.name: path.read_text(encoding="utf8") for path in TARGET.glob("*.py")}
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
    for path in set(TARGET.glob("*.py")) - {TARGET / name for name in texts}:
        path.unlink()
    for name, text in texts.items():
        (TARGET / name).write_text(text, encoding="utf8")
    print(f"{len(texts) - 1} classes in {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
