"""Bringing files, ``key=value`` arguments and flags into one tree, and filling in interpolations."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from hlrp.aliases import alias_groups
from hlrp.config.shipped import find_config, find_default
from hlrp.config.tree import KeyPath, Leaf, Tree, drop_replaced, get, leaves, merge, normalise, split, value_of, without
from hlrp.config.yaml_source import parse_value, read_layers
from hlrp.errors import UserError


def gather(path: Path | str | None, overrides: Sequence[str], flags: Mapping[str, Any]) -> tuple[Tree, list[Path]]:
    """Merge files, ``key=value`` arguments and flags into one tree, later ones on top.

    Returns:
        The tree with the origin of every value, and the files read, lowest first.

    Raises:
        UserError: A source cannot be read.
    """
    read = read_layers(find_config(path), find_default) if path is not None else []
    layers = [layer.tree for layer in read]
    # The command line is one layer, so that two of its words that contradict each other are seen.
    given = [parse_override(text) for text in overrides]
    given += [
        _nest(key, Leaf(_plain(value), f"flag {flag}", literal=True))
        for key, (value, flag) in flags.items()
        if value is not None
    ]
    layers.append(_joined(given))
    layers = [normalise(layer) for layer in layers]
    groups = _exclusive(layers)
    merged: Tree = {}
    for layer in layers:
        merged = merge(_drop_old_root(drop_replaced(merged, layer, groups), layer), layer)
    return merged, [layer.path for layer in read]


def _joined(trees: Iterable[Tree]) -> Tree:
    """Merge what the command line says.

    Raises:
        UserError: An argument is given twice, or a flag and an argument say different things.
    """
    joined: Tree = {}
    said: dict[KeyPath, Leaf] = {}
    for tree in map(normalise, trees):
        for path, leaf in leaves(tree):
            before = said.setdefault(path, leaf)
            if before is not leaf and (before.literal == leaf.literal or before.value != leaf.value):
                raise UserError(
                    f"{'.'.join(path)} is given twice: {before.value!r} and {leaf.value!r}",
                    where=f"{before.origin}, {leaf.origin}",
                    fix="keep one of them",
                )
        joined = merge(joined, tree)
    return joined


def _drop_old_root(base: Tree, overlay: Tree) -> Tree:
    """Forget the folder of another dataset: LeRobot would read it under the new name."""
    if value_of(get(overlay, ("data", "repo_id"))) is not None and get(overlay, ("data", "root")) is None:
        return without(base, ("data", "root"))
    return base


def _exclusive(layers: Sequence[Tree]) -> list[tuple[KeyPath, ...]]:
    """Return the groups of keys of which a higher layer's replaces a lower layer's."""
    types = [value_of(node) for layer in layers if (node := get(layer, ("model", "policy_type"))) is not None]
    groups: list[tuple[KeyPath, ...]] = [
        (("trainer", "steps"), ("trainer", "max_epochs")),
        (("data", "sources"), ("data", "repo_id")),
        (("data", "sources"), ("data", "root")),
        (("data", "sources"), ("data", "episodes")),
        (("latents", "table"), ("latents", "laq"), ("latents", "source")),
    ]
    for names in alias_groups(str(types[-1])) if types else ():
        same: tuple[KeyPath, ...] = tuple(("model", name) for name in names)
        groups.append((*same, ("trainer", "learning_rate")) if "optimizer_lr" in names else same)
    return groups


def parse_override(text: str) -> Tree:
    """Read one ``key=value`` argument.

    Raises:
        UserError: No ``=``, an empty part of the key, or a value that is no YAML.
    """
    key, equals, value = text.partition("=")
    where = f"override {text!r}"
    if not equals or not key:
        raise UserError(
            f"{text!r} is not of the form key=value", where=where, fix="write for example trainer.steps=100"
        )
    if key.startswith("-"):
        raise UserError(f"unknown flag {key!r}", where=where, fix="write keys without dashes, as in trainer.steps=100")
    try:
        return _nest(key, Leaf(parse_value(value), where))
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"the value of {key!r} is not valid YAML: {problem}", where=where, fix="quote it") from error


def _nest(key: str, leaf: Leaf) -> Tree:
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    if not all(parts):
        raise UserError(f"{key!r} is no key", where=leaf.origin, fix="separate the parts by single dots")
    tree: Any = split(leaf)
    for part in reversed(parts):
        tree = {part: tree}
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# The name of a resolver; one that is itself an interpolation counts as unknown.
_RESOLVER = re.compile(r"\$\{\s*([\w.-]+(?=\s*:)|\$\{)")


def interpolate(tree: Tree, model: type[BaseModel] | None) -> Tree:
    """Replace ``${...}`` by the values it refers to; the schema's defaults can be referred to as well.

    Raises:
        UserError: It refers to nothing, or uses a resolver other than OmegaConf's own (``oc.env`` and so on).
    """
    users = [
        (path, leaf)
        for path, leaf in leaves(tree)
        if not leaf.literal and ("${" in str(leaf.value) or leaf.value == "???")
    ]
    if not users:
        return tree
    for path, leaf in users:
        _check_expression(path, leaf)
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path, leaf = users[0]
    try:
        full = OmegaConf.create(merge(_default_values(model) if model else {}, _escaped_literals(tree)))
        for path, leaf in users:
            value = reduce(lambda node, part: node[part], path, full)
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            tree = _replace(tree, path, split(Leaf(value, leaf.origin)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ".".join(path)
        reason, remedy = _reason(str(error).splitlines()[0])
        raise UserError(
            f"{key}: cannot fill in the reference: {reason}",
            where=next((other.origin for place, other in users if ".".join(place) == key), leaf.origin),
            fix=remedy,
        ) from error
    return tree


# OmegaConf's words for a variable that is not set, and for a key that is not there.
_UNSET = re.compile(r"Environment variable '(.+)' not found")
_ABSENT_FIELD = re.compile(r"Interpolation key '(model\..+)' not found")


def _reason(said: str) -> tuple[str, str]:
    """Why a reference cannot be filled in, from OmegaConf's words, and what to do about it."""
    if unset := _UNSET.search(said):
        name = unset[1]
        return f"the environment variable {name!r} is not set", f"set it, or give a default: ${{oc.env:{name},0}}"
    if absent := _ABSENT_FIELD.search(said):
        return said, f"the default is not known here (a policy's is LeRobot's): write {absent[1]} in the file"
    return said, "refer to a key by its full dotted name, as in ${trainer.seed}"


# An interpolation that is meant as text, and the text that means it.
_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")
_OPENING = re.compile(r"(\\*)\$\{")


def escape(value: Any) -> Any:
    r"""Rewrite text, at any depth, so that reading it as configuration gives it back: ``${x}`` as ``\${x}``."""
    if isinstance(value, str):
        return _OPENING.sub(r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    return [escape(item) for item in value] if isinstance(value, list) else value


def _escaped_literals(node: Any) -> Any:
    if isinstance(node, Leaf):
        return escape(node.value) if node.literal else node.value
    return {key: _escaped_literals(child) for key, child in node.items()} if isinstance(node, dict) else node


def _check_expression(path: KeyPath, leaf: Leaf) -> None:
    key, text = ".".join(path), str(leaf.value)
    if leaf.value == "???":
        raise UserError(f"{key!r} must be given", where=leaf.origin, fix=f"add {key}=...")
    for name in _RESOLVER.findall(_ESCAPED.sub("", text)):
        if not name.startswith("oc."):
            raise UserError(
                f"{key}: the resolver {name!r} is not allowed", where=leaf.origin, fix="use ${key} or ${oc.env:NAME}"
            )


def _replace(tree: Tree, path: KeyPath, node: Any) -> Tree:
    head, *rest = path
    return tree | {head: _replace(tree[head], tuple(rest), node) if rest else node}


def _default_values(model: type[BaseModel]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if not field.is_required():
            default = field.get_default(call_default_factory=True)
            values[name] = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
    return values
