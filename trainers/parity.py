"""The same policy trained by LeRobot's own loop and in Lightning, and how far the two are apart."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hlrp.config import DataSection, LeRobotRun, LightningRun, load_config
from hlrp.errors import UserError, WorkError
from hlrp.runs import RunDirectory

_WARM_UP = 3  # steps that are not timed: first batches, first allocations
_FRAME_STORE = {f"data.{name}": DataSection.model_fields[name].default for name in ("cache", "cache_limit_gb")}
"""Where Lightning keeps decoded frames, and what LeRobot, which has no such place, is given."""


@dataclass(frozen=True)
class Parity:
    """Differences between two runs, relative: `|a - b| / max(|a|, |b|)`; of a tensor, relative to its largest entry.

    Args:
        policy: What was trained.
        steps: Optimizer steps of each run.
        loss: Of every step.
        grad_norm: Of every step, before clipping.
        weights: Largest over all tensors, by step of the checkpoint.
        worst_tensor: The tensor that differs most at the end.
        native_s: Median seconds of a step with LeRobot, data included.
        lightning_s: The same with Lightning.
    """

    policy: str
    steps: int
    loss: list[float]
    grad_norm: list[float]
    weights: dict[int, float]
    worst_tensor: str
    native_s: float
    lightning_s: float

    @property
    def worst(self) -> float:
        """The largest difference of all."""
        return max([*self.loss, *self.grad_norm, *self.weights.values()])

    @property
    def speed_ratio(self) -> float:
        """Steps per second of Lightning over those of LeRobot."""
        return self.native_s / self.lightning_s

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {**asdict(self), "worst": self.worst, "speed_ratio": self.speed_ratio}


def relative(a: float, b: float) -> float:
    """`|a - b| / max(|a|, |b|)`, 0 for two zeros; infinite where one is not finite and the other is."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    difference = abs(a - b) / max(abs(a), abs(b))
    return math.inf if math.isnan(difference) else difference


def parity_runs(
    flags: Mapping[str, tuple[Any, str]], overrides: Iterable[str], config: str | None, *, steps: int, output: Path
) -> tuple[LeRobotRun, LightningRun]:
    """Two runs of one configuration, one for each trainer, that log every step and save halfway and at the end.

    The frame store is Lightning's alone: LeRobot reads every frame from its video, as ever.

    Raises:
        UserError: The configuration is none of both trainers.
    """
    given = list(overrides)
    every = {"trainer.steps": steps, "trainer.log_freq": 1, "trainer.save_freq": max(1, steps // 2)}
    without_store = [text for text in given if text.partition("=")[0].strip() not in _FRAME_STORE]
    runs: list[Any] = []
    for name, arguments, more in (("lerobot", without_store, _FRAME_STORE), ("lightning", given, {})):
        own = {"trainer_type": name, "output_dir": str(output / name), **every, **more}
        merged = {**flags, **{key: (value, "hlrp parity") for key, value in own.items()}}
        runs.append(load_config(config, arguments, merged).config)
    native, lightning = runs
    if native.data.image_transforms.enable:
        raise UserError(
            "LeRobot's loop draws image transforms from other random numbers: the two runs would see other pictures",
            where="data.image_transforms",
            fix="compare without them",
        )
    if not isinstance(native, LeRobotRun) or not isinstance(lightning, LightningRun):
        raise UserError("parity compares policies", where="--policy", fix="give --policy NAME")
    return native, lightning


def measure_parity(native: LeRobotRun, lightning: LightningRun) -> Parity:
    """Train both, one after the other, and compare them.

    Raises:
        UserError: One of them refuses its configuration.
        WorkError: One of them failed.
    """
    from trainers.lerobot.trainer import LeRobotTrainer
    from trainers.lightning.trainer import LightningTrainer

    first = LeRobotTrainer().fit(run=native)
    second = LightningTrainer().fit(run=lightning)
    return compare_runs(first.path, second.path)


def compare_runs(native: Path, lightning: Path) -> Parity:
    """Compare two finished runs that logged every step.

    Raises:
        WorkError: They have no common steps or checkpoints.
    """
    runs = [RunDirectory.open(native), RunDirectory.open(lightning)]
    rows = [{row["step"]: row for row in run.metrics() if "loss" in row} for run in runs]
    steps = sorted(rows[0].keys() & rows[1].keys())
    saved = [{c.step: c.pretrained for c in run.checkpoints() if c.complete} for run in runs]
    common = sorted(saved[0].keys() & saved[1].keys())
    if not steps or not common:
        raise WorkError(f"the runs have no steps or checkpoints in common\n  where: {native}, {lightning}")
    weights = {step: _weights(saved[0][step], saved[1][step]) for step in common}
    return Parity(
        policy=str(runs[1].manifest.policy),
        steps=steps[-1],
        loss=[relative(rows[0][s]["loss"], rows[1][s]["loss"]) for s in steps],
        grad_norm=[relative(rows[0][s]["grad_norm"], rows[1][s]["grad_norm"]) for s in steps],
        weights={step: difference for step, (difference, _) in weights.items()},
        worst_tensor=weights[common[-1]][1],
        native_s=_step_s(rows[0], steps),
        lightning_s=_step_s(rows[1], steps),
    )


def _step_s(rows: Mapping[int, dict[str, Any]], steps: list[int]) -> float:
    timed = steps[_WARM_UP:] or steps
    return statistics.median(rows[s]["update_s"] + rows[s]["data_s"] for s in timed)


def _weights(native: Path, lightning: Path) -> tuple[float, str]:
    """The largest difference of two checkpoints, and the tensor that has it."""
    from safetensors.torch import load_file

    a, b = (load_file(folder / "model.safetensors") for folder in (native, lightning))
    if a.keys() != b.keys():
        raise WorkError(f"the checkpoints hold other tensors: {json.dumps(sorted(a.keys() ^ b.keys())[:5])}")
    worst, name = 0.0, ""
    for key, values in a.items():
        difference = (values.double() - b[key].double()).abs().max() if values.numel() else 0.0
        scale = max(float(values.double().abs().max()), 1e-12) if values.numel() else 1.0
        if float(difference) / scale >= worst:
            worst, name = float(difference) / scale, key
    return worst, name
