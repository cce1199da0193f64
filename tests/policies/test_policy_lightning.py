"""What Lightning offers, with a LeRobot policy: callbacks, loggers, limits, precision, clipping, best checkpoint."""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, callbacks

from hlrp.data import LeRobotDataModule
from hlrp.errors import UserError
from hlrp.policies.lerobot import ACT
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import TINY

from trainers.lightning.trainer import LightningTrainer

SETTINGS: dict[str, Any] = {"steps": 12, "save_freq": 2, "log_freq": 1, "eval_steps": 2, "device": "cpu"}


def _fit(root: Path, out: Path, **settings: Any) -> ACT:
    policy = ACT(**TINY["act"], learning_rate=1e-3)
    data = LeRobotDataModule(root=root, cache="ram", batch_size=4, num_workers=0, eval_split=0.4)
    LightningTrainer(**{**SETTINGS, **settings}).fit(policy, data, output_dir=out)
    return policy


def _callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


class ClippedNorms(Callback):
    """Gradient norms that reached the optimizer."""

    seen: ClassVar[list[float]] = []

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            self.seen.append(float(torch.nn.utils.get_total_norm(gradients)))


def _weights(folder: Path) -> bytes:
    return (folder / "pretrained_model" / "model.safetensors").read_bytes()


def test_the_best_checkpoint_by_a_metric_is_one_to_evaluate(square_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    best = _callback("ModelCheckpoint", monitor="val_loss", save_top_k=1)
    _fit(out=out, root=square_root, callbacks=[best, "LearningRateMonitor"], save_freq=2)
    scores = {row["step"]: row["val_loss"] for row in RunDirectory.open(out).metrics() if "val_loss" in row}
    assert len(scores) == 6
    (kept,) = (out / "best").iterdir()
    step = int(kept.name)
    assert scores[step] == min(scores.values())
    policy = ACT.from_pretrained(kept)
    assert policy.built.config.chunk_size == 6
    assert (kept / "training_state" / "lightning.json").is_file()
    same = out / "checkpoints" / kept.name
    steps = [f"{s:06d}" for s in range(2, 13, 2)]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [*steps, "last"]
    others = {step: _weights(same.parent / step) for step in steps}
    assert [name for name, weights in others.items() if weights == _weights(kept)] == [kept.name]
    with pytest.raises(UserError, match="monitr"):
        _fit(square_root, tmp_path / "x", callbacks=[_callback("ModelCheckpoint", monitr="val_loss")])


def test_early_stopping_loggers_profiler_limits_precision_and_clipping(
    square_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "ClippedNorms", ClippedNorms, raising=False)
    monkeypatch.setattr(callbacks, "__all__", [*callbacks.__all__, "ClippedNorms"])
    out = tmp_path / "run"
    stop = _callback("EarlyStopping", monitor="val_loss", patience=1, min_delta=1e9)
    settings: dict[str, Any] = {"logger": ["csv", "tensorboard"], "profiler": "simple"}
    settings["callbacks"] = [stop, "ClippedNorms"]
    settings |= {"limit_train_batches": 2, "precision": "bf16", "gradient_clip_val": 1e-3}
    policy = _fit(square_root, out, **settings)
    rows = [row for row in RunDirectory.open(out).metrics() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]  # the second validation is no better
    assert rows[1]["epochs"] < rows[3]["epochs"]
    assert policy.trainer.current_epoch >= 1, "two batches are an epoch"
    assert policy.trainer.precision == "bf16-mixed"
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert len(ClippedNorms.seen) >= 2  # a validation clears them before this is called
    assert ClippedNorms.seen == pytest.approx([1e-3] * len(ClippedNorms.seen), rel=1e-2)
    assert all(row["grad_norm"] > 1e-3 for row in rows), "measured before clipping"
    assert "val_loss" in (out / "logs/csv/from_000000/metrics.csv").read_text()
    assert list((out / "logs/tensorboard").glob("events*"))
    assert "run_training_batch" in next(out.glob("*profile*")).read_text()
    exact = tmp_path / "exact"
    _fit(square_root, exact, steps=2)
    losses = [next(iter(RunDirectory.open(run).metrics()))["loss"] for run in (out, exact)]
    assert losses[0] != losses[1], "bfloat16 rounds"
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert json.loads((exact / "run.json").read_text())["status"] == "finished"
