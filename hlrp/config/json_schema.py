"""JSON Schema of a run's configuration file, for editors that complete and check YAML."""

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from hlrp.config.schema import RUN_CLASSES, RunConfig

_DEFAULTS = {
    "type": "array",
    "items": {"type": "string"},
    "description": "Files to start from: beside this one, or shipped names. Later ones win, this file wins over all.",
}


def json_schema(trainer: str | None = None, *, backends: Iterable[str] = ()) -> dict[str, Any]:
    """Describe a file that configures a run, in every spelling that loading accepts.

    Args:
        trainer: ``lerobot`` or ``lightning``; None for both.
        backends: Names of the foundation model's backends; empty: any name.
    """
    kind: Any = RUN_CLASSES[trainer] if trainer else RunConfig
    described = TypeAdapter(kind).json_schema()
    for name, part in (described.get("$defs", {}) | {"": described}).items():
        properties = part.get("properties", {})
        if "trainer_type" in properties:
            properties["defaults"] = _DEFAULTS
            for section in ("trainer", "data"):
                properties[section] = _or_wrapped(properties[section])
        if name == "FoundationModel" and backends:
            properties["backend"]["enum"] = list(backends)
        if name.endswith("TrainerSection"):
            properties["max_steps"] = properties["steps"] | {"description": "The same as `steps`."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hlrp run"} | described


def _or_wrapped(section: dict[str, Any]) -> dict[str, Any]:
    """Accept ``{class_path, init_args}`` beside the section itself."""
    wrapped = {
        "type": "object",
        "properties": {"class_path": {"type": "string"}, "init_args": section},
        "required": ["class_path"],
        "additionalProperties": False,
    }
    return {"anyOf": [section, wrapped]}
