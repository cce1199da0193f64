"""Finding checkpoints and telling a complete one from a half-written one, without importing torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.runs.kinds import PRETRAINED, refuse_other
from hlrp.runtime.manifest import Manifest

TRAINING_STATE = "training_state"
# What LeRobot's loader opens on resume; the scheduler file is absent for policies without a schedule.
_TRAINING_FILES = (
    "training_step.json",
    "rng_state.safetensors",
    "optimizer_param_groups.json",
    "optimizer_state.safetensors",
)
# What Lightning's trainer writes in their place.
LIGHTNING_STATE = "lightning.json"
LIGHTNING_TENSORS = "lightning.safetensors"
LIGHTNING_SHARDS = "shards"
_MAX_HEADER = 100_000_000


def safetensors_problem(path: Path) -> str | None:
    """Say what is wrong with a safetensors file by its header and size alone, or None if it is whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                return f"{path.name} is truncated ({size} bytes)"
            header = json.loads(file.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return f"{path.name} is not a safetensors file"
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        return f"{path.name} is truncated ({size} of {expected} bytes)"
    return None


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a whole safetensors file: name to `dtype`, `shape` and `data_offsets`; and `__metadata__`."""
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header


def _json_problem(path: Path) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        json.loads(path.read_text(encoding="utf8"))
    except (ValueError, OSError, RecursionError):
        return f"{path.name} is not valid JSON"
    return None


def pretrained_problem(folder: Path) -> str | None:
    """Say what keeps a `pretrained_model` folder, or an export, from loading, or None."""
    if not folder.is_dir():
        return f"{folder.name}/ is missing"
    if problem := _json_problem(folder / "config.json"):
        return problem
    if (exported := Manifest.find(folder)) is not None:
        lacking = [name for name in exported.files if not (folder / name).is_file()]
        return f"{lacking[0]} is missing" if lacking else None
    return _weights_problem(folder)


def _weights_problem(folder: Path) -> str | None:
    weights = sorted(folder.glob("*.safetensors"))
    if not any(w.name in ("model.safetensors", "adapter_model.safetensors") for w in weights):
        return "model.safetensors is missing"
    for file in weights:
        if problem := safetensors_problem(file):
            return problem
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        if problem := _json_problem(folder / name):
            return problem
    return None


def _training_state_problem(folder: Path, names: tuple[str, ...]) -> str | None:
    for path in (folder / name for name in names):
        problem = safetensors_problem(path) if path.suffix == ".safetensors" else _json_problem(path)
        if problem:
            return f"{TRAINING_STATE}: {problem}"
    return None


def _shards(state: Path) -> tuple[str, ...]:
    """Files that the processes of a sharded run wrote, one each."""
    checkpoint = json.loads(state.read_text(encoding="utf8")).get("checkpoint", {})
    return tuple(checkpoint.get("shards", ()))


@dataclass(frozen=True)
class Checkpoint:
    """One folder below `checkpoints/`.

    Args:
        step: Training step it was taken at.
        path: The folder that holds `pretrained_model/` and `training_state/`.
        problem: What keeps it from being used for resuming; None for a complete one.
    """

    step: int
    path: Path
    problem: str | None

    @property
    def complete(self) -> bool:
        """Whether training can resume from it."""
        return self.problem is None

    @property
    def pretrained(self) -> Path:
        """The LeRobot `pretrained_model` folder."""
        return self.path / PRETRAINED


def read_checkpoint(path: Path) -> Checkpoint:
    """Examine one checkpoint folder whose name is its step."""
    state = path / TRAINING_STATE
    if (state / LIGHTNING_STATE).exists():
        # Lightning's trainer renames whole folders into place: only damage done later is left to find.
        weights = sorted((path / PRETRAINED).glob("*.safetensors"))
        problem = _training_state_problem(state, (LIGHTNING_STATE, LIGHTNING_TENSORS))
        problem = problem or _training_state_problem(state / LIGHTNING_SHARDS, _shards(state / LIGHTNING_STATE))
        problem = problem or next((fault for file in weights if (fault := safetensors_problem(file))), None)
    else:
        problem = pretrained_problem(path / PRETRAINED) or _training_state_problem(state, _TRAINING_FILES)
    return Checkpoint(step=int(path.name), path=path, problem=problem)


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Every checkpoint below a run's `checkpoints/` folder, oldest first, complete or not."""
    if not folder.is_dir():
        return []
    try:
        folders = [p for p in folder.iterdir() if checkpoint_step(p) is not None and p.is_dir() and not p.is_symlink()]
    except OSError as error:
        raise UserError(
            f"the checkpoints cannot be read: {error.strerror}", where=str(folder), fix="give yourself the right to"
        ) from error
    return sorted(map(read_checkpoint, folders), key=lambda c: c.step)


def checkpoint_step(path: Path) -> int | None:
    """The step that the name of a checkpoint's folder says; None for all other names."""
    # `isdigit` alone takes raised digits for some, `int` those of other scripts: no trainer writes either.
    return int(path.name) if path.name.isascii() and path.name.isdigit() else None


def model_folders(path: Path) -> list[Path]:
    """Where the model may be that ``path`` means: the folder itself, a checkpoint's, then a run's, newest first."""
    steps = [(step, p) for p in (path / "checkpoints").glob("*") if (step := checkpoint_step(p)) is not None]
    newest_first = [p / PRETRAINED for _, p in sorted(steps, reverse=True) if not p.is_symlink()]
    return [path, path / PRETRAINED, *newest_first]


def is_foundation(path: Path) -> bool:
    """Whether a run, a checkpoint or a model folder holds a foundation model, by its newest manifest alone."""
    for folder in model_folders(path):
        try:
            kind = json.loads((folder / "manifest.json").read_text(encoding="utf8")).get("kind")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        return bool(kind == "foundation")
    return False


def resolve_pretrained(path: Path) -> Path:
    """Turn a run, a checkpoint or a `pretrained_model` folder into a loadable `pretrained_model` folder.

    Raises:
        UserError: The folder is missing, holds no checkpoint of a policy, or only broken ones (each named).
    """
    if not path.exists():
        raise UserError(
            f"{path} does not exist",
            where=str(path),
            fix="give a run folder, a checkpoint or a pretrained_model folder",
        )
    refuse_other(path, "a policy", str(path))
    itself = (path / "config.json").is_file() and not (path / "checkpoints").is_dir()
    if itself or (path / PRETRAINED).is_dir():
        folder = path if itself else path / PRETRAINED
        if problem := pretrained_problem(folder):
            raise UserError(
                f"the checkpoint cannot be loaded: {problem}", where=str(path), fix="use another checkpoint of the run"
            )
        return folder
    checkpoints = list_checkpoints(path / "checkpoints")
    for checkpoint in reversed(checkpoints):
        if pretrained_problem(checkpoint.pretrained) is None:
            return checkpoint.pretrained
    if checkpoints:
        broken = "; ".join(f"{c.path.name}: {pretrained_problem(c.pretrained)}" for c in checkpoints)
        raise UserError(
            f"no checkpoint of this run can be loaded ({broken})",
            where=str(path),
            fix="train again, or restore the files",
        )
    raise UserError(
        "there is no checkpoint in this folder",
        where=str(path),
        fix="give a run folder with checkpoints/, or a pretrained_model folder",
    )
