"""Showing a resolved configuration with where each value came from."""

from collections.abc import Iterator, Mapping
from typing import Any

from hlrp.config.layers import escape
from hlrp.config.loading import Resolved
from hlrp.config.schema import EvalConfig
from hlrp.config.yaml_source import dump_line


def annotated_yaml(resolved: Resolved[Any]) -> str:
    """Return the configuration as YAML, each value followed by a comment that says where it came from.

    The text loads to the same configuration again.
    """
    dumped = escape(resolved.config.model_dump(mode="json"))
    rows = list(_rows({"eval": dumped} if isinstance(resolved.config, EvalConfig) else dumped, resolved.origin))
    # One long value must not push every comment out of sight.
    column = max((len(text) for text, origin in rows if origin and len(text) <= 60), default=0)
    return "".join(f"{text.ljust(column)}  # {origin}\n" if origin else f"{text}\n" for text, origin in rows)


def _rows(
    node: Mapping[str, Any], origin: Mapping[str, str], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, str | None]]:
    """Yield (line of YAML, origin) for every key below ``node``."""
    indent = "  " * len(path)
    for key, value in node.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            yield f"{indent}{dump_line(key)}:", None
            yield from _rows(value, origin, here)
        else:
            yield (
                f"{indent}{dump_line(key)}: {dump_line(value)}",
                origin.get(".".join(here), "default").replace("\n", " "),
            )
