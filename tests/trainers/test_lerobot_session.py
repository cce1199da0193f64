"""What becomes of what LeRobot's process says: rows, and the reason of a failure."""

import sys
from pathlib import Path
from typing import Any

import pytest

from hlrp.config import load_config
from hlrp.errors import WorkError
from hlrp.locks import FolderLock
from hlrp.processes import child_environment
from hlrp.runs import DatasetRecord, RunDirectory
from trainers.failures import explain_failure
from trainers.lerobot.command import Command
from trainers.lerobot.session import TrainingSession, metrics_row
from trainers.lifecycle import RunLifecycle

# Two processes that speak as the workers do: the second one fails, and the first one of that.
TWO = """
import os, sys, time
from trainers.lerobot.events import Emitter
emit, second = Emitter(), os.environ["RANK"] == "1"
emit("accepted")
print("this is process", os.environ["RANK"])
time.sleep(0 if second else 1)
emit("failed", error="RuntimeError", message="a bad frame" if second else "Connection closed by peer")
sys.exit(1)
"""


def test_data_wait_is_the_share_of_a_step() -> None:
    row = metrics_row({"steps": 5, "loss": 0.5, "update_s": 0.3, "dataloading_s": 0.1})
    assert row["step"] == 5
    assert row["data_wait"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("error", "message", "code", "says"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate", 1, "--batch-size"),
        ("OSError", "[Errno 28] No space left on device", 1, "free space"),
        ("RuntimeError", "DataLoader worker (pid 3) is killed by signal: Killed.", 1, "data.num_workers"),
        ("LocalEntryNotFoundError", "outgoing traffic has been disabled", 1, "--allow-download"),
        ("ValueError", "something new\nwith details", 1, "ValueError: something new"),
        ("", "", -9, "signal 9"),
        ("", "", 3, "the last line"),
    ],
)
def test_a_failure_is_one_readable_sentence(error: str, message: str, code: int, says: str) -> None:
    reason = explain_failure(error, message, code, ["first", "the last line", ""])
    assert says in reason
    assert "\n" not in reason


def test_of_several_processes_the_one_that_failed_first_gives_the_reason(tmp_path: Path) -> None:
    run: Any = load_config(None, ["trainer_type=lerobot", "model.policy_type=act"]).config
    lifecycle, path = RunLifecycle(quiet=True), tmp_path / "run"

    def begin() -> RunDirectory:
        return lifecycle.create(path, run, policy="act", dataset=DatasetRecord(root="/d"), steps=4, command=["train"])

    command = Command([sys.executable, "-c", TWO], ["--steps=4"], child_environment(), processes=2)
    with FolderLock(path, fresh=True) as lock, pytest.raises(WorkError, match="process 1 of 2: RuntimeError: a bad"):
        TrainingSession(command, lock, lifecycle, begin, steps=4).run()
    manifest = RunDirectory.open(path).manifest
    assert (manifest.status, manifest.reason) == ("failed", "process 1 of 2: RuntimeError: a bad frame")
    said = (path / "log.txt").read_text().splitlines()
    assert sorted(said) == ["this is process 0", "this is process 1"]
