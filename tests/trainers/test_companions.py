"""A run on two devices in which one of the processes fails: real programs, which start the second one themselves."""

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from lightning_runs import program

from hlrp.runs import RunDirectory

TWO: dict[str, Any] = {"device": "cpu", "devices": 2, "steps": 8, "log_freq": 1, "grace_s": 2.0}
FAILS = {"at": 3, "number": 0, "rank": 1}


def _left_over(out: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(str(out) in word for word in p.info["cmdline"] or ())]


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        # The same where the first process waits sees most of it.
        pytest.param(FAILS, "process 1 of 2: RuntimeError: what the process came to", marks=pytest.mark.slow),
        (FAILS | {"number": signal.SIGKILL}, "process 1 of 2 was killed by signal 9 (often: out of memory)"),
        (FAILS | {"stuck": True}, "process 1 of 2: RuntimeError: what the process came to"),
        (FAILS | {"rank": 0}, "RuntimeError: what the process came to"),
    ],
    ids=["second fails", "second is killed", "first waits", "first fails"],
)
def test_a_run_fails_with_the_reason_and_leaves_no_process(tmp_path: Path, net: dict[str, Any], reason: str) -> None:
    out = tmp_path / "run"
    done = program(out, **TWO, net=net)
    assert done.returncode == 1, done
    manifest = RunDirectory.open(out).manifest
    assert (manifest.status, manifest.reason, manifest.processes) == ("failed", reason, 2)
    assert f"training failed: {reason}" in done.stderr
    log = (out / "log.txt").read_text()
    assert ('raise RuntimeError("what the process came to")' in log) == (net["number"] == 0)
    assert _left_over(out) == []


def test_the_others_end_after_the_first_one_however_that_went(tmp_path: Path) -> None:
    done = program(tmp_path / "run", **TWO, net={"at": 3, "number": signal.SIGKILL, "rank": 0, "stuck": True})
    assert done.returncode == -signal.SIGKILL
    psutil.wait_procs(_left_over(tmp_path / "run"), timeout=30)
    assert _left_over(tmp_path / "run") == []
