"""What every run does with its folder, without an engine."""

import json
import math
from pathlib import Path

import pytest

from hlrp.config import LeRobotRun, load_config
from hlrp.errors import UserError
from hlrp.runs import DatasetRecord, RunDirectory
from trainers.lifecycle import RunLifecycle, resumable


def _begun(folder: Path, *notes: str) -> RunLifecycle:
    run = load_config(None, ["trainer_type=lerobot", "model.policy_type=act", "trainer.seed=3"]).config
    assert isinstance(run, LeRobotRun)
    lifecycle = RunLifecycle(notes, quiet=True)
    lifecycle.create(folder, run, policy="act", dataset=DatasetRecord(root="/data"), steps=4, command=["train"])
    return lifecycle


def _checkpoint(run: RunDirectory, step: int) -> None:
    """As far as a Lightning checkpoint is looked at."""
    state = run.path / "checkpoints" / f"{step:06d}" / "training_state"
    state.mkdir(parents=True)
    (state / "lightning.json").write_text("{}")
    (state / "lightning.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


def test_warnings_are_kept_once_and_the_last_row_of_training_is_the_result(tmp_path: Path) -> None:
    lifecycle = _begun(tmp_path / "run", "known before")
    lifecycle.warn("found while training")
    lifecycle.warn("known before")
    for step, loss in ((1, 0.5), (2, math.nan), (3, math.nan)):
        lifecycle.training_row({"step": step, "loss": loss})
    lifecycle.write_row({"step": 3, "val_loss": 0.25})
    warnings = ["known before", "found while training", "the loss is not a finite number at step 2"]
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [text.partition(":")[0] for text in said["warnings"]] == warnings
    assert (said["trainer"], said["seed"], said["dataset"]) == ("lerobot", 3, {"root": "/data"})
    result = lifecycle.finish()
    assert (result.checkpoint, result.metrics["step"], len(result.warnings)) == (None, 3, 3)
    finished = RunDirectory.open(tmp_path / "run")
    assert (finished.manifest.status, finished.manifest.final_metrics) == ("finished", {"step": 3, "loss": None})
    assert [row.get("val_loss") for row in finished.metrics()] == [None, None, None, 0.25]


def test_a_copy_in_another_process_leaves_the_manifest_alone(tmp_path: Path) -> None:
    """A forked data worker warns too; the manifest it has is an old one."""
    lifecycle = _begun(tmp_path / "run")
    lifecycle._process += 1
    lifecycle.warn("said by a worker")
    assert RunDirectory.open(tmp_path / "run").manifest.warnings == []


def test_only_a_fresh_run_without_a_checkpoint_is_taken_away(tmp_path: Path) -> None:
    assert not RunLifecycle(quiet=True).discard_if_fresh()
    lifecycle = _begun(tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run")
    _checkpoint(directory, 2)
    assert not lifecycle.discard_if_fresh()
    again = RunLifecycle(quiet=True)
    again.reopen(directory, resumable(directory, 4)[0], dataset=DatasetRecord(), steps=4)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    assert not again.discard_if_fresh()
    assert lifecycle.discard_if_fresh()
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_says_from_where_and_keeps_its_numbers_if_it_is_stopped_at_once(tmp_path: Path) -> None:
    """In a folder whose name has to be quoted in a command."""
    tmp_path = tmp_path / "two words"
    lifecycle = _begun(tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run")
    for step in (1, 2, 3):
        lifecycle.training_row({"step": step, "loss": 1.0 / step})
    _checkpoint(directory, 2)
    typed = f"hlrp train --resume '{tmp_path / 'run'}'"
    assert str(lifecycle.interrupted(15)) == f"interrupted: checkpoint 000002 is saved; go on with: {typed}"
    directory = RunDirectory.open(tmp_path / "run")
    assert (directory.manifest.status, directory.manifest.reason) == ("interrupted", "stopped by signal 15")
    with pytest.raises(UserError, match="the run is complete: it has 2 of 2 steps") as refused:
        resumable(directory, 2)
    assert refused.value.fix == f"train longer: {typed} --steps 4"
    checkpoint, skipped = resumable(directory, None)
    again = RunLifecycle([*skipped, "a note"], quiet=True)
    again.reopen(directory, checkpoint, dataset=DatasetRecord(), steps=8)
    assert [row["step"] for row in directory.metrics()] == [1, 2]
    again.interrupted(2)
    manifest = RunDirectory.open(tmp_path / "run").manifest
    assert (manifest.steps, manifest.final_metrics["step"], manifest.warnings) == (8, 2, ["a note"])
    assert (manifest.resumed[0].step, manifest.resumed[0].skipped) == (2, ["a note"])


def test_a_run_that_left_the_numbers_names_its_last_good_checkpoint(tmp_path: Path) -> None:
    lifecycle = _begun(tmp_path / "run")
    assert "there is no checkpoint" in str(lifecycle.failed("too large", left_numbers=True))
    _checkpoint(RunDirectory.open(tmp_path / "run"), 2)
    error = lifecycle.failed("too large", left_numbers=True)
    assert str(error).startswith("training failed: too large; the last good checkpoint is 000002\n  log:")
    assert RunDirectory.open(tmp_path / "run").manifest.status == "failed"
    assert str(RunLifecycle(quiet=True).failed("before it began")) == "before it began"
