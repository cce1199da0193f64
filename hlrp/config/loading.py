"""Loading a configuration: defaults < YAML files < ``key=value`` arguments < flags."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hlrp.config.aliases import alias_groups
from hlrp.config.messages import user_error
from hlrp.config.schema import EvalConfig, EvalFile, LeRobotRun, LightningRun
from hlrp.config.tree import (
    KeyPath,
    Leaf,
    Tree,
    as_mapping,
    drop_replaced,
    get,
    leaves,
    merge,
    normalise,
    value_of,
)
from hlrp.config.yaml_source import parse_value, read_layers, shown
from hlrp.errors import UserError, suggest

RUN_CLASSES: dict[str, type[LeRobotRun] | type[LightningRun]] = {"lerobot": LeRobotRun, "lightning": LightningRun}


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
) -> Resolved[LeRobotRun | LightningRun]:
    """Load the configuration of a run.

    Args:
        path: A YAML or JSON file, the name of a shipped one such as ``lerobot/act_aloha``, or None for defaults only.
        overrides: Arguments ``key=value`` with dotted keys; values are read as YAML.
        flags: Dotted key -> (value, name of the flag). A value of None means that the flag was not given.

    Raises:
        UserError: Anything wrong with what was asked, in one message.
    """
    tree, files = _gather(path, overrides, flags or {})
    if "eval" in tree and "model" not in tree:
        raise UserError(
            "this file configures an evaluation, not a run",
            where=_origin_of(tree["eval"]),
            fix="use it with `hlrp eval -c`",
        )
    tree = _with_trainer_type(tree)
    model = RUN_CLASSES[value_of(tree["trainer_type"])]
    config = _validate(_interpolate(tree, model), model, files)
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
    tree, files = _gather(path, overrides, flags or {})
    if "model" in tree or "trainer" in tree:
        raise UserError(
            "this file configures a run, not an evaluation",
            where=_origin_of(tree.get("model", tree.get("trainer"))),
            fix="use it with `hlrp train -c`; an evaluation's file has the key 'eval'",
        )
    config = _validate(_interpolate(tree, EvalFile), EvalFile, files)
    return Resolved(config.eval, _origins(config, tree), tuple(files))


def is_eval_file(path: Path | str) -> bool:
    """Say whether a configuration file is an evaluation's.

    Raises:
        UserError: As ``load_config`` for files that cannot be read.
    """
    return any("eval" in layer.tree for layer in read_layers(find_config(path), _find_default))


def load_values(path: Path | str) -> dict[str, Any]:
    """Read a file with its ``defaults:`` and interpolations, without holding it against the schema.

    Raises:
        UserError: As ``load_config``, for what concerns reading.
    """
    layers = read_layers(find_config(path), _find_default)
    tree: Tree = reduce(merge, (layer.tree for layer in layers), {})
    return value_of(_interpolate(tree, None))  # type: ignore[no-any-return]


def to_yaml(config: BaseModel) -> str:
    """Write a configuration as YAML that loads to an equal one."""
    dumped = config.model_dump(mode="json")
    return yaml.safe_dump({"eval": dumped} if isinstance(config, EvalConfig) else dumped, sort_keys=False)


def shipped_root() -> Path:
    """Return the folder of the configurations that come with this package."""
    for package, inside in (("hlrp", "../configs"), ("hlrp_cli", "configs")):
        spec = find_spec(package)
        if spec and spec.origin:
            folder = (Path(spec.origin).parent / inside).resolve()
            if folder.is_dir():
                return folder
    raise UserError("the shipped configurations are not installed", fix="install the package again")


def shipped_names() -> list[str]:
    """Return the names of all shipped configurations, such as ``lerobot/act_aloha``."""
    root = shipped_root()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def shipped_config(name: str) -> Path:
    """Return the file of a shipped configuration.

    Raises:
        UserError: There is none by that name.
    """
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    if plain not in shipped_names():
        raise UserError(f"there is no shipped configuration {name!r}", fix=suggest(plain, shipped_names()))
    return shipped_root() / f"{plain}.yaml"


def find_config(name: Path | str) -> Path:
    """Find the file that ``-c`` names: a path, or the name of a shipped configuration.

    Raises:
        UserError: Neither exists.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    try:
        return shipped_config(Path(name).as_posix())
    except UserError:
        near = [shown(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(
            f"there is no configuration file {str(name)!r}",
            where=f"-c {name}",
            fix=suggest(str(name), [*near, *shipped_names()]),
        ) from None


def _find_default(name: str, folder: Path) -> Path:
    for candidate in (folder / name, folder / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    try:
        return shipped_config(name)
    except UserError:
        near = [p.name for p in folder.glob("*.y*ml")]
        raise UserError(
            f"'defaults' names {name!r}, which does not exist", fix=suggest(name, [*near, *shipped_names()])
        ) from None


def _gather(path: Path | str | None, overrides: Sequence[str], flags: Mapping[str, Any]) -> tuple[Tree, list[Path]]:
    """Merge all sources into one tree."""
    read = read_layers(find_config(path), _find_default) if path is not None else []
    layers = [layer.tree for layer in read]
    layers += [parse_override(text) for text in overrides]
    layers += [
        _nest(key, Leaf(_plain(value), f"flag {flag}")) for key, (value, flag) in flags.items() if value is not None
    ]
    layers = [normalise(layer) for layer in layers]
    groups = _exclusive(layers)
    return reduce(lambda base, layer: merge(drop_replaced(base, layer, groups), layer), layers, {}), [
        layer.path for layer in read
    ]


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
    tree: Any = _split(leaf)
    for part in reversed(parts):
        tree = {part: tree}
    return tree


def _split(leaf: Leaf) -> Any:
    """Turn a leaf that holds a mapping into a tree of leaves, so that it merges like one."""
    if not isinstance(leaf.value, dict) or not leaf.value:
        return leaf
    return {str(key): _split(Leaf(value, leaf.origin)) for key, value in leaf.value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _with_trainer_type(tree: Tree) -> Tree:
    """Fill in ``trainer_type`` where the model tells it, and check it."""
    if "trainer_type" not in tree:
        model = as_mapping(tree.get("model"))
        implied = "lightning" if "kind" in model or "class_path" in model else "lerobot"
        return {"trainer_type": Leaf(implied, "default"), **tree}
    name = value_of(tree["trainer_type"])
    if name not in RUN_CLASSES:
        raise UserError(
            f"unknown trainer_type {name!r}",
            where=_origin_of(tree["trainer_type"]),
            fix=suggest(str(name), RUN_CLASSES),
        )
    return tree


def _validate[M: BaseModel](tree: Tree, model: type[M], files: Sequence[Path]) -> M:
    try:
        return model.model_validate(value_of(tree))
    except ValidationError as error:
        raise user_error(error, tree, model, [shown(path) for path in files]) from error


_RESOLVER = re.compile(r"\$\{\s*([\w.]+)\s*:")


def _interpolate(tree: Tree, model: type[BaseModel] | None) -> Tree:
    """Replace ``${...}`` by the values it refers to; the schema's defaults can be referred to as well.

    Raises:
        UserError: It refers to nothing, or uses a resolver other than OmegaConf's own (``oc.env`` and so on).
    """
    users = [(path, leaf) for path, leaf in leaves(tree) if "${" in str(leaf.value) or leaf.value == "???"]
    if not users:
        return tree
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for path, leaf in users:
        for name in _RESOLVER.findall(str(leaf.value)):
            if not name.startswith("oc."):
                raise UserError(
                    f"{'.'.join(path)}: the resolver {name!r} is not allowed",
                    where=leaf.origin,
                    fix="use ${key} or ${oc.env:NAME}",
                )
    full = OmegaConf.create(merge(_default_values(model) if model else {}, value_of(tree)))
    resolved = tree
    for path, leaf in users:
        try:
            node: Any = full
            for part in path[:-1]:
                node = node[part]
            if leaf.value == "???":
                raise UserError(f"{'.'.join(path)!r} must be given", where=leaf.origin, fix=f"add {'.'.join(path)}=...")
            value = node[path[-1]]
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{'.'.join(path)}: cannot fill in {leaf.value!r}: {reason}",
                where=leaf.origin,
                fix="refer to a key by its full dotted name",
            ) from error
        resolved = _replace(resolved, path, _split(Leaf(value, leaf.origin)))
    return resolved


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


def _origin_of(node: Any) -> str | None:
    first = next(leaves(node), None)
    return first[1].origin if first else None
