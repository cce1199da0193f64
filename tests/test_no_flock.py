"""Locks on a file system that has none: `flock` fails as it does there, in this process and in those that it starts."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout
from two_processes import in_processes

from hlrp.data.frame_storage import locked
from hlrp.locks import FolderLock, LockedError, file_lock

HOLDER = """
import errno, fcntl, os, pathlib, socket, sys, time
def flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock, here = flock, os.uname()
if sys.argv[2]:
    os.uname = lambda: os.uname_result((here[0], sys.argv[2], *here[2:]))
    socket.gethostname = lambda: sys.argv[2]
from hlrp.locks import FolderLock
with FolderLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True, params=[errno.ENOSYS, errno.ENOLCK], ids=["ENOSYS", "ENOLCK"])
def _no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def _held(folder: Path, node: str = "", **variables: str) -> Iterator[None]:
    """By a process that is killed in the end."""
    argv = [sys.executable, "-c", HOLDER, str(folder), node]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | variables)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield
    finally:
        process.kill()
        process.communicate()


def test_a_job_that_was_requeued_has_its_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "0"}
    refused = pytest.raises(LockedError, match="on node1, job 7")
    with _held(tmp_path / "run", "node1", **job), refused, FolderLock(tmp_path / "run"):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with FolderLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".writer.json").read_text())["job"] == "7+1"
    assert not any((tmp_path / "run").iterdir())


def test_on_one_node_a_writer_is_alone_while_it_lives(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _held(run), pytest.raises(LockedError, match=f"on {os.uname().nodename}"), FolderLock(run):
        pass
    with FolderLock(run), pytest.raises(LockedError, match=f"process {os.getpid()} on"), FolderLock(run):
        pass
    assert not any(run.iterdir())


def test_of_many_that_take_over_one_does(tmp_path: Path) -> None:
    run, said = tmp_path / "run", tmp_path / "said"

    def take() -> None:
        try:
            with FolderLock(run):
                _say(said, "held")
                time.sleep(2)
        except LockedError:
            _say(said, "refused")

    dead = {"host": "elsewhere", "since": "noon", "processes": [[1, 1.0]], "job": None}
    for _ in range(3):
        run.mkdir(exist_ok=True)
        (run / ".writer.json").write_text(json.dumps(dead))
        os.utime(run / ".writer.json", (time.time() - 1000,) * 2)
        said.write_text("")
        in_processes(5, take)
        assert sorted(said.read_text().split()) == ["held", *["refused"] * 4]
        assert not any(run.iterdir())


def _say(file: Path, word: str) -> None:
    with file.open("a") as lines:
        lines.write(f"{word}\n")


def test_decoded_frames_do_not_wait_for_a_dead_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hlrp.locks._SILENCE_S", 1.0)
    monkeypatch.setattr("hlrp.locks._SIGN_S", 0.2)
    announced: list[str] = []
    with locked(tmp_path, announced.append):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            with pytest.raises(Timeout):
                file_lock(tmp_path / "lock").acquire(blocking=False)
            time.sleep(0.1)

    def die() -> None:
        socket.gethostname = lambda: "another"  # whose processes cannot be looked at
        with locked(tmp_path, announced.append):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_processes(1, die, check=False) == [-signal.SIGKILL]
    began = time.monotonic()
    with locked(tmp_path, announced.append):
        assert time.monotonic() - began < 10
