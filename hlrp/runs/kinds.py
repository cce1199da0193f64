"""Telling what a folder is by its small files, so that a message can say what it is for."""

import json
import shlex
from pathlib import Path

from hlrp.errors import UserError

PRETRAINED = "pretrained_model"

_USES: dict[str, str] = {
    "a latent action quantizer": "label a dataset with it: hlrp precompute-latents --laq {path} --dataset-root DIR; "
    "while training: --online-laq {path}; look at it: hlrp laq-report {path}",
    "a foundation model": "start a policy from it: hlrp train --policy hlrp_action_expert_latent --init-from {path} "
    "--dataset-root DIR",
    "a latent table": "train on its labels: hlrp train --model foundation --latents {path} --dataset-root DIR",
    "an action decoder": "label videos with it: hlrp pseudo-label --decoder {path} --dataset-root DIR --output DIR",
    "a dataset": "train on it: hlrp train --policy act --dataset-root {path}",
    "a policy": "evaluate it: hlrp eval {path}; train on from it: hlrp train --init-from {path} --dataset-root DIR",
}
_OF_KIND = {
    "laq": "a latent action quantizer",
    "foundation": "a foundation model",
    "action_decoder": "an action decoder",
}


def recognise(path: Path) -> str | None:
    """Say what a folder holds: a dataset, a latent table, a quantizer, a foundation model, a policy; None: unknown.

    Args:
        path: Any folder; of a run or a checkpoint, what it trained.
    """
    if (path / "meta" / "info.json").is_file():
        return "a dataset"
    steps = [p for p in (path / "checkpoints").glob("*") if p.name.isdecimal()]
    newest = sorted(steps, key=lambda p: int(p.name), reverse=True)
    for folder in (path, path / PRETRAINED, *(p / PRETRAINED for p in newest)):
        manifest = _read(folder / "manifest.json")
        if "identity" in manifest:
            return "a latent table"
        if (kind := str(manifest.get("kind"))) in _OF_KIND:
            return _OF_KIND[kind]
        if "type" in _read(folder / "config.json"):
            return "a policy"
    # Commands import this module for their flags; pydantic is not worth waiting for in `--help`.
    from hlrp.runs.manifest import MANIFEST, RunManifest

    try:
        trained = RunManifest.read(path / MANIFEST).policy
    except (FileNotFoundError, UserError):
        return None
    return _OF_KIND.get(trained, "a policy") if trained else None


def refuse_other(path: Path, wanted: str, where: str) -> None:
    """Refuse a folder that holds something else than what is wanted, with the command to type with what it holds.

    What cannot be told is left to whoever reads it.

    Args:
        path: The folder as the user gave it.
        wanted: As `recognise` calls it.
        where: The flag or key that names the folder.

    Raises:
        UserError: It holds something else.
    """
    kind = recognise(path)
    if kind is not None and kind != wanted:
        raise UserError(
            f"{path} holds {kind}, not {wanted}", where=where, fix=_USES[kind].format(path=shlex.quote(str(path)))
        )


def _read(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
