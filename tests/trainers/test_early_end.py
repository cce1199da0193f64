"""Runs that something ends before their last step: what is saved and said, and when they cannot go on."""

import sys
from pathlib import Path
from typing import Any

import pytest

from hlrp.errors import UserError
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
import lightning_toy as toy
from lightning_runs import assert_same, fit, resume, rows

PLAIN: dict[str, Any] = {"log_freq": 1, "save_freq": 1000, "device": "cpu"}


class Slow(toy.Net):
    """Its fourth step is the first one that ends too late."""

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        timer = next(c for c in self.trainer.callbacks if type(c).__name__ == "Timer")
        timer._offset = 60.0 * (self.global_step >= 3)


def test_a_run_without_time_left_is_not_taken_up_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(out, Slow(), steps=20, **PLAIN, trainer_args={"max_time": {"seconds": 60}})
    before = manifest = RunDirectory.open(out).manifest
    assert manifest.status == "finished" and rows(out)[-1]["step"] == 4
    assert "ended at step 4 of 20, by trainer_args.max_time" in manifest.warnings[-1]
    for steps in (None, 50):
        with pytest.raises(UserError, match=r"ended at step 4 by trainer_args\.max_time(.|\n)*raise") as refused:
            resume(out, steps=steps)
        assert refused.value.exit_code == 2
        assert RunDirectory.open(out).manifest == before
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("seconds: 60", "seconds: 600"))
    resume(out, steps=8)
    manifest = RunDirectory.open(out).manifest
    assert (manifest.steps, manifest.warnings, rows(out)[-1]["step"]) == (8, [], 8)


def test_a_run_that_was_killed_as_its_time_ended_is_closed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(out, Slow(), steps=20, **PLAIN, trainer_args={"max_time": {"seconds": 60}})
    RunDirectory.open(out).update(status="running")
    resume(out)
    manifest = RunDirectory.open(out).manifest
    assert manifest.status == "finished" and "ended at step 4 of 20" in manifest.warnings[-1]


def test_early_stopping_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "stopping_threshold": 1e9}}
    fit(out, steps=40, **PLAIN, callbacks=[stopping], eval_split=0.1, eval_steps=2)
    manifest = RunDirectory.open(out).manifest
    assert "ended at step 2 of 40, by EarlyStopping (Stopping threshold reached: val_loss = " in manifest.warnings[-1]
    resume(out, steps=60)  # it stops again at the next validation, and says so
    manifest = RunDirectory.open(out).manifest
    assert "ended at step 4 of 60, by EarlyStopping" in manifest.warnings[-1]
    assert "take EarlyStopping out of trainer.callbacks" in manifest.warnings[-1]


def test_early_stopping_that_looks_again_at_the_same_epoch_is_no_training(tmp_path: Path) -> None:
    out = tmp_path / "run"
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "loss", "stopping_threshold": 1e9}}
    fit(out, steps=40, **PLAIN, callbacks=[stopping])
    before = RunDirectory.open(out).manifest
    with pytest.raises(UserError, match=r"ended at step 12 by EarlyStopping(.|\n)*take EarlyStopping out"):
        resume(out, steps=60)
    assert RunDirectory.open(out).manifest == before


def test_a_run_that_came_to_its_last_step_says_nothing(tmp_path: Path) -> None:
    """Also where a callback wished for the end there."""
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "toy", "stopping_threshold": 1e9}}
    fit(tmp_path / "run", steps=12, **PLAIN, callbacks=[stopping])
    assert RunDirectory.open(tmp_path / "run").manifest.warnings == []


class NoValidation(toy.Data):
    """Lightning adds a validation where training ends early, and this one's draws numbers."""

    def val_dataloader(self) -> Any:
        return []


class Ends(toy.Net):
    """Wishes its training to end: after a step, or only after an epoch of twelve."""

    def __init__(self, hook: str, at: int) -> None:
        super().__init__()
        self.hook, self.ends_at = hook, at

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self.trainer.should_stop |= self.hook == "batch" and self.global_step >= self.ends_at

    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop |= self.hook == "epoch" and self.global_step >= self.ends_at


@pytest.mark.parametrize(
    ("hook", "at", "minimum", "last"), [("batch", 7, None, 7), ("epoch", 7, None, 12), ("batch", 7, 15, 15)]
)
def test_what_ends_early_is_saved(tmp_path: Path, hook: str, at: int, minimum: int | None, last: int) -> None:
    out, unbroken = tmp_path / "run", tmp_path / "unbroken"
    settings: dict[str, Any] = {"steps": 20, "save_freq": 1000, "log_freq": 5, "device": "cpu"}
    whole = fit(unbroken, None, NoValidation(), **settings)
    fit(out, Ends(hook, at), NoValidation(), **settings, trainer_args={"min_steps": minimum})
    directory = RunDirectory.open(out)
    assert [c.step for c in directory.checkpoints()] == [last] and directory.manifest.status == "finished"
    steps = [row["step"] for row in rows(out) if "loss" in row]
    assert steps == [*range(5, last, 5), last]
    # The weights are those of an unbroken run at this step, and what was trained on is known.
    resumed = resume(out, data=NoValidation())
    assert resumed.ids == whole.ids[last * 4 :]
    assert rows(out)[-1] == rows(unbroken)[-1]
    assert_same(out, unbroken, 20)
