"""Configuration before validation: nested mappings whose leaves remember where they were written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from hlrp.config.trainer_names import TRAINERS
from hlrp.errors import UserError, suggest

type Tree = dict[str, Any]
"""Mapping of key to a Tree, or to a leaf: a plain value, or a ``Leaf`` when origins are tracked."""

type KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Leaf:
    """A value and the place that set it, such as ``configs/x.yaml:12``."""

    value: Any
    origin: str
    literal: bool = False
    """Whether ``${`` in it is text: what a flag says is not looked up."""


def value_of(node: Any) -> Any:
    """Return the plain value of a leaf, or of a whole tree."""
    if isinstance(node, Leaf):
        return node.value
    if isinstance(node, dict):
        return {key: value_of(child) for key, child in node.items()}
    return node


def leaves(node: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Leaf]]:
    """Yield every tracked leaf with its path."""
    if isinstance(node, Leaf):
        yield path, node
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, (*path, key))


def first_origin(node: Any) -> str | None:
    """Say where the first value below a node was written; None if there is none, or it is not tracked."""
    return next((leaf.origin for _, leaf in leaves(node)), None)


def split(leaf: Leaf) -> Any:
    """Turn a leaf that holds a mapping into a tree of leaves, so that it merges like one."""
    if not isinstance(leaf.value, dict) or not leaf.value:
        return leaf
    return {str(key): split(replace(leaf, value=value)) for key, value in leaf.value.items()}


def origin_at(tree: Tree, path: Sequence[str | int]) -> str | None:
    """Say where the value at ``path`` was written; for a mapping, or a missing key, where its neighbourhood begins."""
    node: Any = tree
    trail = [node]
    for part in path:
        if not isinstance(node, dict) or part not in node:
            break
        node = node[part]
        trail.append(node)
    return next((origin for candidate in reversed(trail) if (origin := first_origin(candidate)) is not None), None)


def get(tree: Tree, path: KeyPath) -> Any:
    """Return the node at ``path``, or None."""
    node: Any = tree
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node


def without(tree: Tree, path: KeyPath) -> Tree:
    """Return ``tree`` without the node at ``path``."""
    head, *rest = path
    if head not in tree:
        return tree
    copy = dict(tree)
    if not rest:
        del copy[head]
    elif isinstance(copy[head], dict):
        copy[head] = without(copy[head], tuple(rest))
    return copy


def merge(base: Tree, overlay: Tree) -> Tree:
    """Return ``base`` with ``overlay`` on top: mappings merge, all else is replaced.

    A mapping with integer keys on top of a list changes single elements (``data.sources.0.weight=2``).

    Raises:
        UserError: Such an integer lies outside the list.
    """
    merged = dict(base)
    for key, node in overlay.items():
        below = merged.get(key)
        if isinstance(node, dict) and isinstance(below, dict):
            merged[key] = merge(below, node)
        elif isinstance(node, dict) and isinstance(value_of(below), list) and all(k.isdecimal() for k in node):
            merged[key] = _merge_into_list(key, below, node)
        else:
            merged[key] = node
    return merged


def _merge_into_list(key: str, below: Any, overlay: Tree) -> Any:
    items = list(value_of(below))
    origin = ""
    for index, node in overlay.items():
        origin = first_origin(node) or ""
        if int(index) >= len(items):
            raise UserError(
                f"{key!r} has {len(items)} elements, so there is no element {index}",
                where=origin or None,
                fix="count from 0, or give the whole list",
            )
        old, new = items[int(index)], value_of(node)
        items[int(index)] = merge(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
    return Leaf(items, origin) if isinstance(below, Leaf) else items


_TRAINER_CLASSES = {f"{name}Trainer": trainer for trainer, name in TRAINERS.items()}
"""Class names that a configuration may give as ``trainer.class_path``, and the trainer they mean."""

_TRAINER_PATH = re.compile(r"(?:\w+\.)*(\w+)")  # the class's name says which trainer, whatever project it lives in
_DATA_CLASSES = ("LeRobotDataModule", "LeRobotDataset")


def normalise(tree: Tree) -> Tree:
    """Bring one source of configuration, in any accepted spelling, to the schema's own shape.

    Accepted are ``trainer``/``data`` as ``{class_path, init_args}``, ``trainer.max_steps`` for ``trainer.steps``,
    ``model.type`` for ``model.policy_type``, ``data.image_transforms: true``, and dotted or nested keys in
    ``trainer.lerobot_args`` and ``data.rename_map``. The result shares unchanged parts with ``tree``.

    Raises:
        UserError: An unknown class, or two spellings of one key that disagree.
    """
    # A section that is named but left empty means its defaults.
    tree = {k: v for k, v in tree.items() if not (k in ("trainer", "data", "latents") and value_of(v) is None)}
    if isinstance(tree.get("trainer"), dict):
        tree = _unwrap_trainer(tree)
        tree["trainer"] = _rename(tree["trainer"], "max_steps", "steps", "trainer")
        tree["trainer"] = _flatten(tree["trainer"], "lerobot_args")
    if isinstance(tree.get("data"), dict):
        data, _ = _unwrap(tree["data"], "data", _DATA_CLASSES)
        tree["data"] = _flatten(data, "rename_map")
        transforms = data.get("image_transforms")
        if isinstance(value_of(transforms), bool):
            tree["data"]["image_transforms"] = {"enable": transforms}
    if isinstance(tree.get("model"), dict):
        tree["model"] = _rename(tree["model"], "type", "policy_type", "model")
    return tree


def _unwrap_trainer(tree: Tree) -> Tree:
    trainer, class_node = _unwrap(tree["trainer"], "trainer", tuple(_TRAINER_CLASSES))
    tree["trainer"] = trainer
    if class_node is None:
        return tree
    match = _TRAINER_PATH.fullmatch(str(value_of(class_node)))
    implied = _TRAINER_CLASSES[cast("re.Match[str]", match).group(1)]
    said = value_of(tree.get("trainer_type", implied))
    if said != implied:
        raise UserError(
            f"trainer_type is {said!r} but trainer.class_path names the {implied} trainer",
            where=first_origin(class_node),
            fix="make them agree, or leave trainer.class_path out",
        )
    tree.setdefault("trainer_type", replace(class_node, value=implied) if isinstance(class_node, Leaf) else implied)
    return tree


def _unwrap(section: Tree, name: str, known: Sequence[str]) -> tuple[Tree, Any]:
    """Lift ``init_args`` to the section's own level; return it with the node that names the class."""
    if "class_path" not in section and "init_args" not in section:
        return section, None
    flat = {key: node for key, node in section.items() if key not in ("class_path", "init_args")}
    class_node, arguments = section.get("class_path"), section.get("init_args", {})
    if class_node is not None:
        match = _TRAINER_PATH.fullmatch(str(value_of(class_node)))
        if match is None or match.group(1) not in known:
            path = str(value_of(class_node))
            raise UserError(
                f"{name}.class_path: unknown class {path!r}",
                where=first_origin(class_node),
                fix=suggest(path.rpartition(".")[2], known),
            )
    if isinstance(arguments, Leaf) and arguments.value in ({}, None):
        arguments = {}
    if not isinstance(arguments, dict):
        raise UserError(
            f"{name}.init_args must be a mapping, got {value_of(arguments)!r}",
            where=first_origin(arguments),
            fix="write {key: value, ...}",
        )
    for key, node in arguments.items():
        _refuse_conflict(flat.get(key), node, f"{name}.{key}", f"{name}.init_args.{key}")
        flat[key] = node
    return flat, class_node


def _rename(section: Tree, alias: str, target: str, name: str) -> Tree:
    if alias not in section:
        return section
    _refuse_conflict(section.get(target), section[alias], f"{name}.{target}", f"{name}.{alias}")
    return {(target if key == alias else key): node for key, node in section.items() if key != target or key == alias}


def _refuse_conflict(first: Any, second: Any, first_name: str, second_name: str) -> None:
    if first is None or value_of(first) == value_of(second):
        return
    raise UserError(
        f"{first_name} and {second_name} mean the same but differ: {value_of(first)!r} and {value_of(second)!r}",
        where=first_origin(second),
        fix=f"keep {first_name}",
    )


def _flatten(section: Tree, key: str) -> Tree:
    """Turn nested mappings below ``section[key]`` into one level of dotted keys."""
    node = section.get(key)
    if not isinstance(node, dict):
        return section

    def walk(child: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(child, dict) and child:
            for name, value in child.items():
                yield from walk(value, f"{prefix}.{name}" if prefix else str(name))
        else:
            yield prefix.lstrip("-"), child

    return section | {key: dict(walk(node, "")) if node else {}}


def drop_replaced(base: Tree, overlay: Tree, groups: Sequence[tuple[KeyPath, ...]]) -> Tree:
    """Remove from ``base`` the keys that ``overlay`` replaces by another spelling of the same thing.

    Args:
        base: What the lower layers say.
        overlay: The layer to be put on top.
        groups: Paths of which only one can hold.
    """
    for group in groups:
        # That a key is none replaces nothing.
        given = [path for path in group if value_of(get(overlay, path)) is not None]
        if given:
            for path in group:
                if path not in given:
                    base = without(base, path)
    return base


def as_mapping(node: Any) -> Mapping[str, Any]:
    """Return the node if it is a mapping, else an empty one."""
    return node if isinstance(node, dict) else {}
