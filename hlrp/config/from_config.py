"""`FromConfig`: building an object from a file, a mapping, a pydantic model or a dataclass."""

import dataclasses
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from hlrp.config.class_path import resolve_class_path
from hlrp.errors import UserError, suggest


class FromConfig:
    """Mixin that adds `from_config` to a class."""

    @classmethod
    def from_config(cls, source: Any, *, allow_import: Sequence[str] = (), **overrides: Any) -> Self:
        """Build an instance from a configuration of its constructor's arguments.

        Args:
            source: Path of a YAML or JSON file; a mapping of arguments, or ``{class_path, init_args}`` naming this
                class or a subclass; a pydantic model; a dataclass instance; or an OmegaConf ``DictConfig``.
                Arguments that are ``{class_path, init_args}`` themselves are built first.
            allow_import: Packages beyond this project, LeRobot and Lightning that ``class_path`` may name.
            **overrides: Arguments that replace those of ``source``.

        Raises:
            UserError: The source cannot be read, names a class that is not allowed or does not fit, or has an
                argument that the constructor does not know or lacks one that it needs.
        """
        where = str(source) if isinstance(source, str | Path) else None
        arguments = _arguments_of(source)
        target: type[Self] = cls
        if "class_path" in arguments:
            target = cls._named_class(arguments, allow_import, where)
            arguments = _init_args(arguments, where)
        elif set(arguments) == {"init_args"}:
            arguments = _init_args(arguments, where)
        arguments = {**arguments, **overrides}
        _check_arguments(target, arguments, where)
        return target(**{name: _build(value, allow_import) for name, value in arguments.items()})

    @classmethod
    def _named_class(cls, source: Mapping[str, Any], allow: Sequence[str], where: str | None) -> type[Self]:
        path = str(source["class_path"])
        # A configuration may name the very class that is asked, or one below it, without saying where it lives, or by
        # the package of a project that is not here.
        family = {known.__name__: known for known in _with_subclasses(cls)}
        package, _, name = path.rpartition(".")
        if not package or importlib.util.find_spec(package.partition(".")[0]) is None:
            if name not in family:
                raise UserError(f"class_path {path!r} is not a {cls.__name__}", where=where, fix=suggest(name, family))
            return family[name]
        found = resolve_class_path(path, allow)
        if not issubclass(found, cls):
            raise UserError(f"class_path {path!r} is not a {cls.__name__}", where=where, fix=suggest(name, family))
        return found


def _with_subclasses[T](cls: type[T]) -> list[type[T]]:
    return [cls] + [deeper for child in cls.__subclasses__() for deeper in _with_subclasses(child)]


def _arguments_of(source: Any) -> dict[str, Any]:
    if isinstance(source, str | Path):
        from hlrp.config.loading import load_values

        return load_values(source)
    if isinstance(source, BaseModel):
        return {name: getattr(source, name) for name in type(source).model_fields} | (source.model_extra or {})
    if dataclasses.is_dataclass(source) and not isinstance(source, type):
        return {field.name: getattr(source, field.name) for field in dataclasses.fields(source) if field.init}
    if isinstance(source, Mapping):
        return {str(key): value for key, value in source.items()}
    if type(source).__module__.startswith("omegaconf."):
        from omegaconf import DictConfig, OmegaConf

        if isinstance(source, DictConfig):
            values: Any = OmegaConf.to_container(source, resolve=True)
            return {str(key): value for key, value in values.items()}
    raise UserError(
        f"cannot configure from a {type(source).__name__}",
        fix="give a path, a mapping, a pydantic model, a dataclass instance or a DictConfig",
    )


def _init_args(source: Mapping[str, Any], where: str | None) -> dict[str, Any]:
    beside = sorted(source.keys() - {"class_path", "init_args"})
    arguments = source.get("init_args") or {}
    if beside:
        raise UserError(f"{beside[0]!r} stands beside 'class_path'", where=where, fix="move it into 'init_args: {...}'")
    if not isinstance(arguments, Mapping):
        raise UserError(f"'init_args' must be a mapping, got {arguments!r}", where=where, fix="write {key: value, ...}")
    return dict(arguments)


def _check_arguments(target: type, arguments: Mapping[str, Any], where: str | None) -> None:
    parameters = [p for p in inspect.signature(target).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = {p.name for p in named}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [name for name in arguments if name not in known]
    if unknown and not takes_any:
        raise UserError(
            f"{target.__name__} has no argument {unknown[0]!r}", where=where, fix=suggest(unknown[0], known, limit=30)
        )
    missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if missing:
        raise UserError(
            f"{target.__name__} needs {', '.join(map(repr, missing))}", where=where, fix=f"add {missing[0]}: ..."
        )


def _build(value: Any, allow: Sequence[str]) -> Any:
    """Build what is given as ``{class_path, init_args}``, at any depth."""
    if isinstance(value, BaseModel) and set(type(value).model_fields) == {"class_path", "init_args"}:
        value = value.model_dump()
    if isinstance(value, list):
        return [_build(item, allow) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        return {key: _build(item, allow) for key, item in value.items()}
    target = resolve_class_path(str(value["class_path"]), allow)
    arguments = _init_args(value, str(value["class_path"]))
    _check_arguments(target, arguments, str(value["class_path"]))
    return target(**{name: _build(item, allow) for name, item in arguments.items()})
