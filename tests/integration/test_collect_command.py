"""`hlrp collect` as a person runs it: mistakes, kills, signals, resuming, the number of processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from interruptions import assert_gone, family_of

WANTED = ["--tasks", "drawer-close-v3,button-press-v3", "--episodes", "3", "--image-size", "32", "--seed", "5"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hlrp_cli.main", "collect", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def stop_early(output: Path, number: int) -> tuple[int, str, dict[str, bytes]]:
    """Send a signal once a new episode is staged; return the exit code, standard error and the staged episodes."""
    staging = output.with_name(output.name + ".partial")
    before = len(list(staging.rglob("*.npz")))
    process = subprocess.Popen(command(*WANTED, "--workers", 1, "--output", output), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(staging.rglob("[0-9]*.npz"))) > before, 200, "an episode")
    family = family_of(process)
    assert family, "the simulation was expected in a process of its own"
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert_gone(family)
    assert not output.exists()
    episodes = {f"{file.parent.name}/{file.name}": file.read_bytes() for file in staging.rglob("[0-9]*.npz")}
    return process.returncode, stderr, episodes


@pytest.mark.slow
def test_stopped_and_killed_recordings_continue_to_the_same_dataset(tmp_path: Path) -> None:
    output = tmp_path / "broken"
    code, _, first = stop_early(output, signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, stderr, second = stop_early(output, signal.SIGTERM)
    assert code == 143 and "the same command continues" in stderr and "Traceback" not in stderr
    assert second.items() >= first.items(), "a finished episode was lost or made anew"

    differing = run(*WANTED, "--noise", "0.5", "--output", output)
    assert differing.returncode == 2 and "begun with 0.1, asked now 0.5" in differing.stderr

    done = run(*WANTED, "--workers", 1, "--output", output, "--json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert json.loads(done.stdout)["episodes"] == {"drawer-close-v3": 3, "button-press-v3": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]

    whole = run(*WANTED, "--workers", 2, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert "6/6 episodes" in whole.stderr
    assert (output / "meta/hlrp_collect.json").read_text() == (tmp_path / "whole/meta/hlrp_collect.json").read_text()
    tables = [pq.read_table(root / "data") for root in (output, tmp_path / "whole")]
    assert tables[0].equals(tables[1])
    assert len(np.unique(tables[0]["episode_index"])) == 6


def test_ctrl_c_before_the_first_episode(tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        command(*WANTED, "--output", output), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for((tmp_path / "out.partial" / "settings.json").exists, 60, "the start")
    wait_for(lambda: family_of(process), 60, "a process")
    family = family_of(process)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "stopped" in stderr and "Traceback" not in stderr
    assert_gone(family)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tasks", "drawer-clos-v3"], "did you mean 'drawer-close-v3'"),
        (["--tasks", "push-v3", "--env", "metawrld"], "did you mean 'metaworld'"),
        (["--tasks", "push-v3", "--image-size", "7"], "--image-size 7 is out of range"),
        (["--tasks", "push-v3", "--episodes", "0"], "--episodes 0 is out of range"),
        (["--tasks", "push-v3", "--noise", "-1"], "--noise -1.0 is out of range"),
        (["--tasks", "push-v3", "--noise", "much"], "much"),
    ],
)
def test_mistakes_end_at_once_with_one_message(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = run(*arguments, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert expected in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_output_that_exists_or_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    existing = run(*WANTED, "--output", tmp_path / "out")
    assert existing.returncode == 2 and "exists already" in existing.stderr
    (tmp_path / "file").touch()
    homeless = run(*WANTED, "--output", tmp_path / "file" / "out")
    assert homeless.returncode == 2 and "this is no folder" in homeless.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]
