"""Who may write a folder, and what children are told: with real processes that hold locks and die."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hlrp.errors import UserError
from hlrp.locks import FolderLock
from hlrp.processes import child_environment, stop_signals
from hlrp.ranks import is_first_process

# Holds the lock of a folder, forks a child that keeps the file open as a data worker would, and waits.
HOLDER = """
import os, sys, time
from hlrp.locks import FolderLock
with FolderLock(__import__("pathlib").Path(sys.argv[1])) as lock:
    seconds = float(sys.argv[2])
    if seconds:
        descriptor = lock._lock._context.lock_file_fd
        if os.posix_spawn:
            os.set_inheritable(descriptor, True)
            os.posix_spawn("/bin/sleep", ["sleep", str(seconds)], os.environ)
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(folder: Path, leftover_s: float = 0) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", HOLDER, str(folder), str(leftover_s)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    process = _holder(folder)
    try:
        began = time.monotonic()
        with pytest.raises(UserError) as refused, FolderLock(folder):
            pass
        assert time.monotonic() - began < 5, "a living writer is not waited for"
        assert f"process {process.pid} on {os.uname().nodename}" in str(refused.value)
    finally:
        _kill(process)
    with FolderLock(folder):  # the dead one's lock and record are taken over
        assert json.loads((folder / ".writer.json").read_text())["processes"][0][0] == os.getpid()
    assert list(folder.iterdir()) == []


def test_a_dead_writers_leftovers_are_waited_for(tmp_path: Path) -> None:
    process = _holder(tmp_path, leftover_s=2)
    began = time.monotonic()
    _kill(process)
    with FolderLock(tmp_path):
        assert 1 < time.monotonic() - began < 10


def test_a_process_that_a_dead_writer_named_still_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "60"])
    lock = FolderLock(tmp_path / "run")
    lock.__enter__()
    lock.add_process(child.pid)
    record = (lock.folder / ".writer.json").read_text()
    lock.__exit__(None, None, None)
    lock.folder.mkdir()
    # As after a kill of the first process: the record names it and the child, and nobody holds the lock.
    gone = subprocess.Popen(["true"])
    gone.wait()
    (lock.folder / ".writer.json").write_text(record.replace(f"{os.getpid()},", f"{gone.pid},", 1))
    monkeypatch.setattr("hlrp.locks._LEFTOVERS_S", 0.3)
    try:
        with pytest.raises(UserError, match="another process is writing"), FolderLock(lock.folder):
            pass
    finally:
        child.kill()
        child.wait()
    with FolderLock(lock.folder):
        pass


@pytest.mark.parametrize(
    "said", ["", "[1]", "null", '{"host": 1}', '{"host": "x", "since": "", "processes": [[1]]}', "[" * 9999]
)
def test_a_damaged_record_keeps_nobody_out(tmp_path: Path, said: str) -> None:
    (tmp_path / ".writer.json").write_text(said)
    with FolderLock(tmp_path):
        pass


def test_a_fresh_folder_is_had_once_and_a_claim_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "act" / "run"
    with FolderLock(folder, fresh=True), pytest.raises(UserError, match=f"process {os.getpid()} on"):
        FolderLock(folder, fresh=True).__enter__()
    assert list(tmp_path.iterdir()) == [], "what was made for nothing is removed, parents too"
    process = _holder(folder)
    _kill(process)
    with FolderLock(folder, fresh=True):  # a claim whose process was killed is nobody's
        (folder / "file").touch()
    with pytest.raises(FileExistsError):
        FolderLock(folder, fresh=True).__enter__()
    assert [p.name for p in folder.iterdir()] == ["file"]


def test_parts_of_a_folder_are_locked_apart(tmp_path: Path) -> None:
    with FolderLock(tmp_path, part="-0-of-2"), FolderLock(tmp_path, part="-1-of-2"), pytest.raises(UserError):
        FolderLock(tmp_path, part="-1-of-2").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_children_find_this_project_wherever_they_start(tmp_path: Path) -> None:
    for name in ("hlrp", "trainers", "hlrp_cli", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the {name} of the current folder')")
    code = "import hlrp, trainers, hlrp_cli; print(hlrp.__path__[0])"
    argv = [sys.executable, "-S", "-c", code]  # without site: as where the project is not installed
    done = subprocess.run(
        argv, cwd=tmp_path, env=os.environ | child_environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(Path(__file__).parents[1] / "hlrp"), done.stderr


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    assert stop_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stop_signals() == (signal.SIGINT, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_process_of_a_launcher() -> None:
    assert [is_first_process({"RANK": rank, "LOCAL_RANK": "1"}) for rank in ("0", "1")] == [True, False]
    assert is_first_process({}) and not is_first_process({"SLURM_PROCID": "3"})
