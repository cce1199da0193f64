"""Running a training process: its output line by line, signals passed on, nothing left running."""

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator
from types import FrameType

from hlrp.processes import leave_closed_terminal, signal_handlers

_POLL_S = 0.5
_READ = 1 << 16


class TrainingProcess:
    """A child in a session of its own; SIGINT, SIGTERM and SIGHUP of this process are passed on to it.

    Args:
        argv: Argument list.
        environment: Variables set on top of the current ones.
    """

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.stopped_by: int | None = None
        self._killed = False
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # The terminal sends Ctrl-C to its whole group: the child must get it once, from us.
            start_new_session=True,
            env=os.environ | environment,
        )

    @property
    def pid(self) -> int:
        """Number of the child."""
        return self._process.pid

    def run(self, on_line: Callable[[str], None]) -> int:
        """Feed every line of output to ``on_line`` until the child ends; return its exit code (-N for signal N)."""
        with signal_handlers(self._on_signal):
            try:
                for line in self._lines():
                    on_line(line)
                return self._process.wait()
            finally:
                self._end()

    def _lines(self) -> Iterator[str]:
        stream = self._process.stdout
        if stream is None:
            raise AssertionError("started with a pipe")
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                ended = self._process.poll() is not None
                if not selector.select(0 if ended else _POLL_S):
                    # A grandchild may hold the pipe open after the child is gone: do not wait for it.
                    if ended:
                        break
                    continue
                chunk = os.read(stream.fileno(), _READ)
                if not chunk:
                    break
                *lines, buffer = (buffer + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
                for line in lines:
                    yield line.decode("utf8", "replace")
        if buffer:
            yield buffer.decode("utf8", "replace")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        leave_closed_terminal()
        if self.stopped_by is not None and number == signal.SIGINT:
            # The second Ctrl-C means now: the newest complete checkpoint stays, this step is lost.
            self._killed = True
            self._signal_group(signal.SIGKILL)
            return
        self.stopped_by = number
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._signal_group(signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._signal_group(signal.SIGKILL)
                self._process.wait()
        self._signal_group(signal.SIGKILL)
        if self._process.stdout:
            self._process.stdout.close()
