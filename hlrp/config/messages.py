"""Turning what pydantic found wrong into one message that names file, key and remedy."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hlrp.config.trainer_sections import LeRobotTrainerSection, LightningTrainerSection
from hlrp.config.tree import Tree, origin_at, value_of
from hlrp.errors import UserError, suggest

_OFTEN_MEANT = {
    "policy": "model",
    "dataset": "data",
    "epochs": "trainer.max_epochs",
    "lr": "trainer.learning_rate",
    "gpus": "trainer.devices",
    "output": "output_dir",
}
_LEROBOTS_OWN = {
    "accumulate_grad_batches": "trainer.lerobot_args.accelerator.gradient_accumulation.steps",
}


def user_error(error: ValidationError, tree: Tree, model: type[BaseModel], files: Sequence[str]) -> UserError:
    """Return one error that lists every mistake found in ``tree``."""
    found: dict[tuple[str | int, ...], list[dict[str, Any]]] = {}
    for detail in error.errors(include_url=False):
        path = _real_path(detail["loc"], tree, keep_last=detail["type"] == "missing")
        found.setdefault(path, []).append(dict(detail))
    mistakes = [_describe(path, details, tree, model) for path, details in found.items()]
    fallback = files[-1] if files else None
    if len(mistakes) == 1:
        what, where, fix = mistakes[0]
        return UserError(what, where=where or fallback, fix=fix)
    lines = [f"{len(mistakes)} mistakes in the configuration:"]
    for what, where, fix in mistakes:
        lines.append(f"  - {what}" + (f"\n    where: {where or fallback}" if where or fallback else ""))
        lines += [f"    fix:   {fix}"] if fix else []
    return UserError("\n".join(lines))


def _real_path(loc: Sequence[str | int], tree: Tree, *, keep_last: bool) -> tuple[str | int, ...]:
    """Drop from pydantic's location the names of union members and validators, which are no keys."""
    node: Any = value_of(tree)
    path: list[str | int] = []
    for position, part in enumerate(loc):
        in_list = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if in_list or (isinstance(node, dict) and part in node):
            node = node[part]
        elif not (keep_last and position == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _describe(
    path: tuple[str | int, ...], details: list[dict[str, Any]], tree: Tree, model: type[BaseModel]
) -> tuple[str, str | None, str | None]:
    """Return (what, where, fix) of the mistakes at one key."""
    key = ".".join(str(part) for part in path) or "the configuration"
    where = origin_at(tree, path)
    kind = details[0]["type"]
    if kind == "extra_forbidden":
        return f"unknown key {key!r}", where, _suggest_key(path, tree, model)
    if kind == "missing":
        return f"{key!r} is missing", where, _suggest_missing(path, tree)
    reason = " or ".join(dict.fromkeys(_reason(d["msg"]) for d in details))
    if kind == "value_error":
        return f"{key}: {reason}" if path else reason, where, None
    given = repr(details[-1]["input"])
    given = given if len(given) <= 80 else given[:77] + "..."
    return f"{key!r} {reason}, got {given}", where, f"correct the value of {key}"


def _reason(message: str) -> str:
    for start in ("Value error, ", "Input ", "String "):
        if message.startswith(start):
            message = message[len(start) :]
    if "valid dictionary" in message:
        return "should be a mapping of keys to values"
    pattern = "should match pattern '^(cpu|mps|cuda(:\\d+)?)$'"
    return "should be cpu, mps, cuda or cuda:N" if message == pattern else message[:1].lower() + message[1:]


def _suggest_key(path: tuple[str | int, ...], tree: Tree, model: type[BaseModel]) -> str:
    name = str(path[-1])
    if "." in name:
        return "write nested keys, one level per dot: " + ": {".join(name.split(".")) + ": ..." + "}" * name.count(".")
    section = _model_at(model, path[:-1], value_of(tree))
    if section is LeRobotTrainerSection and name in LightningTrainerSection.model_fields:
        own = f"; where LeRobot's loop can, it takes {_LEROBOTS_OWN[name]}" if name in _LEROBOTS_OWN else ""
        return f"use --trainer lightning, whose key it is{own}"
    known = list(section.model_fields) if section else []
    parent = ".".join(str(part) for part in path[:-1])
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(f"{parent}.{c}" if parent else c) for c in close) + "?"
    everywhere = list(all_keys(model))
    elsewhere = [k for k in everywhere if k.rpartition(".")[2] == name] or (
        [_OFTEN_MEANT[name]] if name in _OFTEN_MEANT else []
    )
    if elsewhere:
        return "did you mean " + " or ".join(repr(k) for k in elsewhere[:3]) + "?"
    return suggest(name, known, limit=30)


def _suggest_missing(path: tuple[str | int, ...], tree: Tree) -> str:
    name = str(path[-1])
    if path in (("model",), ("model", "policy_type")):
        section = value_of(tree).get("model")
        if isinstance(section, dict) and "kind" in section:
            return f"a model of kind {section['kind']!r} needs trainer_type: lightning"
        close = difflib.get_close_matches("policy_type", section, n=1) if isinstance(section, dict) else []
        if close:
            return f"write 'policy_type' in place of {close[0]!r}"
        return "give --policy NAME or model.policy_type=act; `hlrp policies` lists the names"
    parent = ".".join(str(part) for part in path)
    return f"give {parent}, for example as the argument {parent}=..." if name else "add it"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _model_at(model: type[BaseModel], path: Sequence[str | int], values: Any) -> type[BaseModel] | None:
    """Return the part of the schema that describes the mapping at ``path``."""
    current: type[BaseModel] | None = model
    for part in path:
        values = values[part]
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        candidates = list(_models_in(field.annotation)) if field else []
        if len(candidates) > 1 and isinstance(values, dict):
            # Of several kinds of model, the one that shares most keys with what was written.
            candidates.sort(key=lambda m: _affinity(m, values), reverse=True)
        current = candidates[0] if candidates else None
    return current


def _affinity(model: type[BaseModel], values: dict[str, Any]) -> int:
    kind = model.model_fields.get("kind")
    bonus = 100 if kind is not None and values.get("kind") in get_args(kind.annotation) else 0
    return bonus + len(model.model_fields.keys() & values.keys())


def all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every key below a part of the schema."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in _models_in(field.annotation):
            yield from all_keys(inner, f"{prefix}{name}.")
