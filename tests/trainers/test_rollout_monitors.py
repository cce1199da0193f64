"""Callbacks that monitor rollouts, and runs that are killed among them."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hlrp.config import LightningRun
from hlrp.errors import UserError
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
import lightning_toy as toy
from lightning_runs import assert_same, resume, rows

from trainers.lightning.options import make_trainer
from trainers.lightning.rollouts import Rollouts
from trainers.lightning.state import SafeCheckpointIO
from trainers.lightning.trainer import LightningTrainer

BEST = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "eval_success", "mode": "max"}}
STOPPING = {"class_path": "EarlyStopping", "init_args": {"monitor": "eval_success", "mode": "max", "patience": 2}}


def _run(callbacks: list[dict[str, Any]], **settings: Any) -> LightningRun:
    trainer = {"log_freq": 1, "save_freq": 1000, "device": "cpu", "callbacks": callbacks} | settings
    return LightningRun.model_validate(
        {"trainer_type": "lightning", "trainer": trainer, "model": {"policy_type": "act"}, "env": {"type": "pusht"}}
    )


def _success(monkeypatch: pytest.MonkeyPatch, found: Callable[[int], float]) -> list[int]:
    """Have rollouts find what ``found`` says of a step; gives the steps at which there are some."""
    steps: list[int] = []

    def roll_out(_: Rollouts, checkpoint: Path) -> dict[str, float]:
        steps.append(int(checkpoint.name))
        return {"eval_success": found(steps[-1])}

    monkeypatch.setattr(Rollouts, "__call__", roll_out)
    return steps


def _fit(out: Path, callbacks: list[dict[str, Any]], net: toy.Net | None = None, **settings: Any) -> None:
    LightningTrainer().fit(net or toy.Net(), toy.Data(), run=_run(callbacks, **settings), output_dir=out)


def _killed_at(monkeypatch: pytest.MonkeyPatch, out: Path, killed: int) -> list[int]:
    """Copy the run among the rollouts of a step: what a kill would leave; gives the steps that are rolled out."""

    def found(step: int) -> float:
        aside = out.with_name("killed")
        if step == killed and not aside.exists():
            shutil.copytree(out, aside, symlinks=True)
        return step / 40 if step <= 8 else 0.1

    return _success(monkeypatch, found)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _best(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "best").iterdir())


def test_patience_counts_rollouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six epochs lie between two of them, whose success rises; then an epoch ends after many, and all are validated."""
    steps = _success(monkeypatch, lambda step: step / 30)
    _fit(tmp_path / "run", [STOPPING], steps=30, eval_freq=12, limit_train_batches=2)
    assert rows(tmp_path / "run")[-1]["step"] == 30 and steps == [12, 24, 30]
    steps = _success(monkeypatch, lambda step: 0.5)
    _fit(tmp_path / "worse", [STOPPING], steps=30, eval_freq=3, eval_split=0.1, eval_steps=1)
    assert steps == [3, 6, 9]
    assert "ended at step 9 of 30, by EarlyStopping" in RunDirectory.open(tmp_path / "worse").manifest.warnings[-1]


@pytest.mark.parametrize(("high", "every"), [(20, 20), (16, 4), (12, 12)])
def test_the_best_is_what_was_rolled_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, high: int, every: int
) -> None:
    """Epochs have twelve steps."""
    _success(monkeypatch, lambda step: 0.9 if step == high else 0.1)
    out = tmp_path / "run"
    _fit(out, [BEST], steps=28, eval_freq=every)
    assert _best(out) == [f"{high:06d}"]
    places = [out / folder / f"{high:06d}" / "training_state" for folder in ("best", "checkpoints")]
    best, saved = (SafeCheckpointIO().load_checkpoint(place) for place in places)
    assert all(torch.equal(best["state_dict"][name], weight) for name, weight in saved["state_dict"].items())


class Copied(toy.Net):
    """Copies its run at a step: what a kill would leave."""

    def __init__(self, out: Path, step: int) -> None:
        super().__init__()
        self.out, self.step = out, step

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        if self.global_step == self.step and not self.out.with_name("killed").exists():
            shutil.copytree(self.out, self.out.with_name("killed"), symlinks=True)


@pytest.mark.parametrize(("killed", "best"), [(17, 16), (13, 12), (21, 16)])
def test_a_killed_run_comes_to_the_same_best_and_the_same_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int, best: int
) -> None:
    """The checkpoint of a step is older than what callbacks make of its rollouts."""
    last = best + 8  # after two that were no better
    steps = _success(monkeypatch, lambda step: step / 40 if step <= best else 0.1)
    out, whole = tmp_path / "run", tmp_path / "whole"
    _fit(out, [BEST, STOPPING], Copied(out, killed), steps=40, eval_freq=4)
    assert steps == [*range(4, last + 1, 4)]
    out.rename(whole)
    (tmp_path / "killed").rename(out)
    resume(out)
    assert rows(out) == rows(whole)
    assert steps[last // 4 :] == [step for step in range(4, last + 1, 4) if step >= killed]
    assert RunDirectory.open(out).manifest.warnings == RunDirectory.open(whole).manifest.warnings
    assert _tree(out / "best") == _tree(whole / "best") and _best(out) == [f"{best:06d}"]
    with pytest.raises(UserError, match=f"ended at step {last} by EarlyStopping"):
        resume(out, steps=60)


@pytest.mark.parametrize(
    ("callback", "told"),
    [
        (BEST, {"every_n_train_steps": 4}),
        (BEST, {"every_n_epochs": 2}),
        (BEST, {"save_on_train_epoch_end": True}),
        (STOPPING, {"check_on_train_epoch_end": True}),
    ],
)
def test_one_that_is_to_look_at_other_times_is_refused(
    tmp_path: Path, callback: dict[str, Any], told: dict[str, Any]
) -> None:
    callback = {"class_path": callback["class_path"], "init_args": callback["init_args"] | told}
    with pytest.raises(UserError, match=f"leave .*{next(iter(told))}.* out; trainer.eval_freq") as refused:
        make_trainer(_run([callback], steps=8, eval_freq=4).trainer, tmp_path, start=0, shard_samples=False)
    assert refused.value.exit_code == 2 and "monitors eval_success" in str(refused.value)
    # Without rollouts the name is one that the module logs itself.
    make_trainer(_run([callback], steps=8).trainer, tmp_path, start=0, shard_samples=False)


@pytest.mark.parametrize("killed", [8, 12, 30])
def test_rollouts_that_a_kill_ended_are_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    steps = _killed_at(monkeypatch, out, killed)
    of_loss = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val_loss"}}
    callbacks = [BEST, of_loss, STOPPING | {"init_args": STOPPING["init_args"] | {"patience": 9}}]
    _fit(out, callbacks, steps=30, eval_freq=4, eval_split=0.1, eval_steps=10)
    assert steps == [4, 8, 12, 16, 20, 24, 28, 30]
    out.rename(whole)
    (tmp_path / "killed").rename(out)
    assert RunDirectory.open(out).manifest.status == "running"
    resume(out)
    assert steps[8:] == [step for step in steps[:8] if step >= killed]
    assert rows(out) == rows(whole) and _tree(out / "best") == _tree(whole / "best")
    assert_same(out, whole, 30)
    ended, unbroken = (RunDirectory.open(folder).manifest for folder in (out, whole))
    assert ended.status == "finished" and ended.final_metrics is not None and unbroken.final_metrics is not None
    assert ended.final_metrics["loss"] == unbroken.final_metrics["loss"]
    with pytest.raises(UserError, match="the run is complete: it has 30 of 30 steps"):
        resume(out)
