"""The order of what was found out about a run: by the time at which it was written, whatever its folder is called."""

import datetime as dt
import json
import re
from collections.abc import Iterable
from pathlib import Path

WHILE_TRAINING = "step_"
"""Begins the name of the folder of an evaluation that a training makes on its way; the step's number follows."""


def made_while_training(results: Path) -> bool:
    """Whether a training made this evaluation on its way, of few episodes, as Lightning's rollouts do."""
    return re.fullmatch(rf"{WHILE_TRAINING}\d+", results.parent.name) is not None


def oldest_first(results: Iterable[Path]) -> list[Path]:
    """The `results.json` of evaluations, or other such files, by the time they say they were made.

    Those that a training made on its way come before all others: the newest of a run is one that somebody asked for.
    """
    return sorted(results, key=lambda path: (not made_while_training(path), _made(path), path))


def _made(results: Path) -> float:
    try:
        said = json.loads(results.read_text(encoding="utf8"))["created"]
        return dt.datetime.fromisoformat(said).timestamp()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    try:
        return results.stat().st_mtime
    except OSError:
        return 0.0
