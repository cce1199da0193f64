"""Telling a foundation model by its files, without importing torch."""

import json
from pathlib import Path

from hlrp.runs import checkpoint_step


def is_foundation(path: Path) -> bool:
    """Whether a run, a checkpoint or a model folder holds a foundation model, by its newest manifest alone."""
    steps = [(step, p) for p in (path / "checkpoints").glob("*") if (step := checkpoint_step(p)) is not None]
    newest = sorted(steps, reverse=True)
    for folder in (path, path / "pretrained_model", *(p / "pretrained_model" for _, p in newest)):
        try:
            kind = json.loads((folder / "manifest.json").read_text(encoding="utf8")).get("kind")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        return bool(kind == "foundation")
    return False
