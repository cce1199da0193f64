"""Telling a foundation model by its files, without importing torch."""

import json
from pathlib import Path


def is_foundation(path: Path) -> bool:
    """Whether a run, a checkpoint or a model folder holds a foundation model, by its newest manifest alone."""
    steps = [p for p in (path / "checkpoints").glob("*") if p.name.isdigit()]
    newest = sorted(steps, key=lambda p: int(p.name), reverse=True)
    for folder in (path, path / "pretrained_model", *(p / "pretrained_model" for p in newest)):
        try:
            kind = json.loads((folder / "manifest.json").read_text(encoding="utf8")).get("kind")
        except (OSError, ValueError, AttributeError):
            continue
        return bool(kind == "foundation")
    return False
