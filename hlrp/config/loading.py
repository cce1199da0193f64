"""Loading a configuration: defaults < YAML files < ``key=value`` arguments < flags."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hlrp.config.layers import escape, gather, interpolate
from hlrp.config.messages import user_error
from hlrp.config.schema import RUN_CLASSES, EvalConfig, EvalFile, LeRobotRun, LightningRun, OtherRun
from hlrp.config.shipped import find_config, find_default
from hlrp.config.trainer_names import other_trainers
from hlrp.config.tree import KeyPath, Leaf, Tree, as_mapping, first_origin, leaves, merge, value_of
from hlrp.config.yaml_source import dump, read_layers, shown
from hlrp.errors import UserError, suggest


@dataclass(frozen=True)
class Resolved[C: BaseModel]:
    """A validated configuration and where each of its values came from."""

    config: C
    origin: dict[str, str]
    """Dotted key -> ``default``, ``configs/x.yaml:12``, ``override 'trainer.steps=5'`` or ``flag --steps``."""
    files: tuple[Path, ...] = ()
    """The files read, lowest first."""


def load_config(
    path: Path | str | None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Resolved[LeRobotRun | LightningRun | OtherRun]:
    """Load the configuration of a run.

    Args:
        path: A YAML or JSON file, the name of a shipped one such as ``lerobot/act_aloha``, or None for defaults only.
        overrides: Arguments ``key=value`` with dotted keys; values are read as YAML.
        flags: Dotted key -> (value, name of the flag). A value of None means that the flag was not given.

    Raises:
        UserError: Anything wrong with what was asked, in one message.
    """
    tree, files = gather(path, overrides, flags or {})
    if "eval" in tree and "model" not in tree:
        raise UserError(
            "this file configures an evaluation, not a run",
            where=first_origin(tree["eval"]),
            fix="use it with `hlrp eval -c`",
        )
    tree = _with_trainer_type(tree)
    model: type[LeRobotRun | LightningRun | OtherRun] = RUN_CLASSES.get(value_of(tree["trainer_type"]), OtherRun)
    config = _validate(interpolate(tree, model), model, files)
    return Resolved(config, _origins(config, tree), tuple(files))


def load_eval_config(
    path: Path | str | None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Resolved[EvalConfig]:
    """Load the configuration of an evaluation: a file with the key ``eval``; arguments as in ``load_config``.

    Keys of overrides, flags and origins start with ``eval.``.

    Raises:
        UserError: Anything wrong with what was asked, in one message.
    """
    tree, files = gather(path, overrides, flags or {})
    if "model" in tree or "trainer" in tree:
        raise UserError(
            "this file configures a run, not an evaluation",
            where=first_origin(tree.get("model", tree.get("trainer"))),
            fix="use it with `hlrp train -c`; an evaluation's file has the key 'eval'",
        )
    config = _validate(interpolate(tree, EvalFile), EvalFile, files)
    return Resolved(config.eval, _origins(config, tree), tuple(files))


def is_eval_file(path: Path | str) -> bool:
    """Say whether a configuration file is an evaluation's.

    Raises:
        UserError: As ``load_config`` for files that cannot be read.
    """
    return any("eval" in layer.tree for layer in read_layers(find_config(path), find_default))


def load_values(path: Path | str) -> dict[str, Any]:
    """Read a file with its ``defaults:`` and interpolations, without holding it against the schema.

    Raises:
        UserError: As ``load_config``, for what concerns reading.
    """
    layers = read_layers(find_config(path), find_default)
    tree: Tree = reduce(merge, (layer.tree for layer in layers), {})
    values: dict[str, Any] = value_of(interpolate(tree, None))
    return values


def to_yaml(config: BaseModel) -> str:
    """Write a configuration as YAML that loads to an equal one."""
    dumped = escape(config.model_dump(mode="json"))
    return dump({"eval": dumped} if isinstance(config, EvalConfig) else dumped)


def _with_trainer_type(tree: Tree) -> Tree:
    """Fill in ``trainer_type`` where the model tells it, and check it."""
    if "trainer_type" not in tree:
        model = as_mapping(tree.get("model"))
        implied = "lightning" if "kind" in model or "class_path" in model else "lerobot"
        return {"trainer_type": Leaf(implied, "default"), **tree}
    name = value_of(tree["trainer_type"])
    if isinstance(name, str) and name in RUN_CLASSES:
        return tree
    others = other_trainers()
    if not isinstance(name, str) or name not in others:
        raise UserError(
            f"unknown trainer_type {name!r}",
            where=first_origin(tree["trainer_type"]),
            fix=suggest(str(name), [*RUN_CLASSES, *others]),
        )
    return tree


def _validate[M: BaseModel](tree: Tree, model: type[M], files: Sequence[Path]) -> M:
    try:
        return model.model_validate(value_of(tree))
    except ValidationError as error:
        raise user_error(error, tree, model, [shown(path) for path in files]) from error


def _origins(config: BaseModel, tree: Tree) -> dict[str, str]:
    written = {path: leaf.origin for path, leaf in leaves(tree)}

    def walk(value: Any, path: KeyPath) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, child in value.items():
                yield from walk(child, (*path, key))
            return
        # A value that came inside a larger one, such as a mapping given as an interpolation, shares its origin.
        prefixes = (path[:length] for length in range(len(path), 0, -1))
        yield ".".join(path), next((written[p] for p in prefixes if p in written), "default")

    return dict(walk(config.model_dump(mode="json"), ()))
