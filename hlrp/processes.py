"""Signals that stop a run, and child processes: their environment, where they meet, how they are ended.

Signals that stop a run (SIGINT, SIGTERM, SIGHUP) become a wish, which is granted when a step is complete.
"""

import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from hlrp.errors import Interrupted, WorkError

Handler = Callable[[int, FrameType | None], None]


def child_environment() -> dict[str, str]:
    """Variables for every Python process that is started from here, so that it finds this project's modules.

    `python -m` and `-c` look into the current folder first, whatever lies there: a `trainers/` of the user's own, say.
    The folder this project lies in is named instead, unless it is the interpreter's own.
    """
    import sysconfig

    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in (*paths, *(str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib"))):
        paths.append(root)
    return {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def free_port() -> int:
    """A port on loopback that nobody listens at; not of those that the system gives away by itself meanwhile.

    Raises:
        WorkError: There is none.
    """
    import socket

    for number in range(10_000):
        with socket.socket() as probe, suppress(OSError):
            port = 15_000 + (os.getpid() + number) % 10_000
            probe.bind(("127.0.0.1", port))
            return port
    raise WorkError("no port is free for the processes of the run to meet at")


def signal_group(leader: int, number: int) -> None:
    """Send a signal to a process and all that it has started, whatever of them is left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def wait_for(processes: Iterable[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until all have ended, or the time is over for all of them together."""
    end = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))


def stop_signals() -> tuple[int, ...]:
    """SIGINT, SIGTERM and SIGHUP (a closed terminal), which is left out where `nohup` has it ignored."""
    hangup = getattr(signal, "SIGHUP", None)
    heeded = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((hangup,) if heeded and hangup is not None else ()))


@contextmanager
def signal_handlers(handler: Handler, numbers: tuple[int, ...] | None = None) -> Iterator[None]:
    """Have ``handler`` called for ``numbers`` (`stop_signals` by default); outside the main thread nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread alone; a notebook's worker thread works without them.
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers or stop_signals()}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None: a handler that was not installed from Python.
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


def leave_closed_terminal() -> None:
    """Send what is still printed nowhere if the terminal has gone: writing to it would be an error."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


class StopRequests:
    """Context that takes the signals over that stop a run; outside the main thread it does nothing.

    Before training starts a signal ends the command at once, since there is nothing to save. After that the first one
    is remembered, and a second Ctrl-C no longer waits for the step to end.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.training = False
        self._taken = ExitStack()
        self._numbers: tuple[int, ...] = ()

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._numbers = stop_signals()
            self._taken.enter_context(signal_handlers(self._on_signal, self._numbers))
        return self

    def install(self) -> None:
        """Set the handlers again: Lightning puts its own in front of them, which talk to other processes."""
        for number in self._numbers:
            signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        self._taken.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        leave_closed_terminal()
        if not self.training:
            raise Interrupted("interrupted before training began; there is nothing to save", number)
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


class SignalError(BaseException):
    """Raised where a signal arrives, so that what is open is closed; not an `Exception`, which libraries swallow."""

    def __init__(self, number: int) -> None:
        self.number = number


class StoppedBySignal(Exception):  # noqa: N818 - a stop in order is no error
    """Leaves a training loop after the checkpoint of an interrupted run was saved."""
