"""Reading YAML and JSON files into trees that remember the line of every value."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hlrp.config.tree import Leaf, Tree, split
from hlrp.errors import UserError, suggest


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as people expect it: ``1e-4`` is a number; a date is text, and so is the time ``2:00:00``."""


_LEFT_OUT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in _LEFT_OUT]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads: text that looks like ``1e-4`` is quoted."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )


def dump(value: Any) -> str:
    """Write a value as block YAML, keys in their own order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def dump_line(value: Any) -> str:
    """Write a value as YAML on a single line."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


class Layer(NamedTuple):
    """The content of one file."""

    path: Path
    tree: Tree


def parse_value(text: str) -> Any:
    """Read the value of a ``key=value`` argument by the rules of YAML; empty text is the empty string.

    Raises:
        yaml.YAMLError: The text is no YAML.
    """
    return yaml.load(text, Loader=_Loader) if text else ""  # noqa: S506  _Loader is a SafeLoader


def shown(path: Path) -> str:
    """Return the path as people typed it: relative to the working directory where it lies inside."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read_tree(path: Path) -> Tree:
    """Read one YAML or JSON file.

    Raises:
        UserError: The file cannot be read, is no YAML, holds a key twice, or is no mapping.
    """
    name, text = shown(path), read_source(path)
    if path.suffix == ".json":
        return _read_json(text, name)
    try:
        return _read_yaml(text, name)
    except yaml.YAMLError as error:
        raise _syntax_error(error, name) from error
    except RecursionError:
        raise UserError("nested too deeply to be a configuration", where=name, fix="flatten it") from None


def _read_json(text: str, name: str) -> Tree:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{name}:{error.lineno}:{error.colno}"
        raise UserError(f"not valid JSON: {error.msg}", where=place, fix="check commas, quotes and brackets") from error
    if not isinstance(value, dict):
        raise UserError(
            "a configuration is a mapping of keys to values", where=name, fix='start the file with {"key": value}'
        )
    return {key: split(Leaf(item, name)) for key, item in value.items()}


def _read_yaml(text: str, name: str) -> Tree:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise UserError(
                "a configuration is a mapping of keys to values",
                where=f"{name}:{node.start_mark.line + 1}",
                fix="start the file with keys such as 'trainer_type: lerobot'",
            )
        return _Builder(loader, name).mapping(node)
    finally:
        loader.dispose()


def read_source(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        UserError: It does not exist, is a folder, may not be read or is not UTF-8.
    """
    name = shown(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(
            f"there is no configuration file {name!r}", where=shown(path.parent), fix=suggest(path.name, near)
        ) from None
    except IsADirectoryError:
        raise UserError(f"{name!r} is a folder, not a configuration file", fix="name a file in it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name!r} is not text in UTF-8 (byte {error.start})", fix="name a YAML file") from None
    except OSError as error:
        raise UserError(f"cannot read {name!r}: {error.strerror}", fix="check the path and its permissions") from None


def _syntax_error(error: yaml.YAMLError, name: str) -> UserError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    reasons = [getattr(error, "context", None), getattr(error, "problem", None)]
    reason = ", ".join(r for r in reasons if r) or str(error)
    fix = "indent with spaces" if "'\\t'" in reason else "check the indentation, colons, quotes and brackets there"
    return UserError(f"not valid YAML: {reason}", where=place, fix=fix)


class _Builder:
    """Turns YAML nodes into a tree."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self.loader, self.name = loader, name
        self.open: set[int] = set()

    def mapping(self, node: yaml.MappingNode) -> Tree:
        if id(node) in self.open:
            raise UserError("an alias refers to itself", where=self._place(node), fix="remove the alias")
        self.open.add(id(node))
        self._refuse_repeated_keys(node)
        # Merge keys (<<) become ordinary pairs, in front of the node's own, which therefore win.
        self.loader.flatten_mapping(node)
        tree: Tree = {}
        for key_node, value_node in node.value:
            tree[self._key(key_node)] = self._value(key_node, value_node)
        self.open.discard(id(node))
        return tree

    def _value(self, key_node: yaml.Node, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode) and node.value:
            return self.mapping(node)
        return Leaf(self.loader.construct_object(node, deep=True), self._place(key_node))

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise UserError("a key must be plain text", where=self._place(node), fix="quote it if it holds {} or []")
        return str(node.value)

    def _refuse_repeated_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[str, yaml.Node] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self._key(key_node)
            if key in seen:
                raise UserError(
                    f"the key {key!r} is given twice",
                    where=f"{self._place(seen[key])} and {self._place(key_node)}",
                    fix="keep one of them",
                )
            seen[key] = key_node

    def _place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


def read_layers(path: Path, find: Callable[[str, Path], Path], chain: tuple[Path, ...] = ()) -> list[Layer]:
    """Read a file and, below it, those that its ``defaults:`` list names.

    Args:
        path: The file.
        find: Finds a file named in ``defaults:``, given the name and the folder of the file that names it.
        chain: The files that led here, outermost first.

    Returns:
        One layer per file, lowest first.

    Raises:
        UserError: As ``read_tree``; a file that includes itself; ``defaults`` that is no list of names.
    """
    chain = (*chain, path.resolve())
    tree = read_tree(path)
    declared = tree.pop("defaults", None)
    layers: list[Layer] = []
    for name in _default_names(declared):
        try:
            parent = find(name, path.parent)
        except UserError as error:
            raise UserError(error.what, where=declared.origin, fix=error.fix) from error
        if parent.resolve() in chain:
            raise UserError(
                f"{name!r} includes itself through 'defaults'", where=declared.origin, fix="remove it from the list"
            )
        layers += read_layers(parent, find, chain)
    return [*layers, Layer(path, tree)]


def _default_names(declared: Any) -> list[str]:
    if declared is None:
        return []
    value = declared.value if isinstance(declared, Leaf) else None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            "'defaults' must be a list of YAML files",
            where=getattr(declared, "origin", None),
            fix="write 'defaults: [base.yaml]', relative to this file",
        )
    return names
