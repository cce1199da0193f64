"""Commands that are interrupted: started, watched until they have trained for some steps, and seen to be gone."""

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import hlrp_argv


def start(args: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The installed command in the background."""
    environment = os.environ | (env or {})
    return subprocess.Popen(
        hlrp_argv(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for_rows(run: Path, count: int, process: subprocess.Popen[str], limit_s: float = 240) -> None:
    """Wait until a run has logged ``count`` rows."""
    end = time.monotonic() + limit_s
    metrics = run / "metrics.jsonl"
    while time.monotonic() < end:
        if metrics.is_file() and metrics.read_text().count("\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no {count} steps within {limit_s} s")


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All that a process has started."""
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process], limit_s: float = 20) -> None:
    """None of them is alive, or will be soon."""
    _, alive = psutil.wait_procs(processes, timeout=limit_s)
    assert not [p for p in alive if _runs(p)], alive


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


_WRITES = ("fsync", "ftruncate", "pwrite", "rename", "replace", "unlink")


def killed_before_write(number: int, work: Callable[[], Any]) -> bool:
    """Do ``work`` in a forked process that is killed right before its ``number``-th call that changes the disk.

    Counted, not timed: every state that a kill can leave on the disk comes up, on a busy machine too.

    Returns:
        Whether it was killed; False: it makes fewer such calls, and has ended.
    """
    child = os.fork()
    if child == 0:
        try:
            _count_down(number)
            work()
        except BaseException:
            # Never back into pytest: its second copy would talk over the first one's line to the other workers.
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
    return status != 0


def _count_down(number: int) -> None:
    left = [number]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return wrapper

    for name in _WRITES:
        setattr(os, name, counted(getattr(os, name)))
