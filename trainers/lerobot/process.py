"""Running training processes: their output line by line, signals passed on, nothing left running."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NamedTuple

from hlrp.processes import leave_closed_terminal, signal_group, signal_handlers, wait_for

_POLL_S = 0.5
_READ = 1 << 16
# How long the others have to end by themselves once one has failed: they may wait for it where nothing can be raised.
_GRACE_S = 30.0


class Killed(NamedTuple):
    """A process that a signal ended, which was not sent from here.

    Args:
        rank: Its number among those of the run.
        code: Its exit code, the signal's number, negative.
    """

    rank: int
    code: int


class TrainingProcess:
    """Children in sessions of their own; SIGINT, SIGTERM and SIGHUP of this process are passed on to them.

    Args:
        argv: Argument list of each.
        environments: For each, variables set on top of the current ones.
    """

    def __init__(self, argv: list[str], *environments: dict[str, str]) -> None:
        self.stopped_by: int | None = None
        self.killed: Killed | None = None
        """The first one that was; what others say from then on comes from that."""
        self._kills = False
        self._code = 0
        self._failed_at: float | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for environment in environments:
                self._processes.append(_start(argv, environment))
        except BaseException:
            self._end()
            raise

    @property
    def pids(self) -> list[int]:
        """Numbers of the children, which are those of their process groups too."""
        return [process.pid for process in self._processes]

    def run(self, on_line: Callable[[str], None]) -> int:
        """Feed every line of output to ``on_line`` until the children end.

        Returns:
            The exit code of the one that failed first (-N for signal N); 0: none did.
        """
        with signal_handlers(self._on_signal):
            try:
                for line in self._lines():
                    on_line(line)
                while self._some_live():
                    time.sleep(_POLL_S / 10)
                return self._code
            finally:
                self._end()

    def _lines(self) -> Iterator[str]:
        left = {process.stdout: b"" for process in self._processes if process.stdout is not None}
        with selectors.DefaultSelector() as selector:
            for stream in left:
                selector.register(stream, selectors.EVENT_READ)
            while left:
                # A grandchild may hold the pipe open after the child is gone: do not wait for it.
                ready = selector.select(_POLL_S if self._some_live() else 0)
                if not self._some_live() and not ready:
                    break
                for key, _ in ready:
                    stream = next(stream for stream in left if stream is key.fileobj)
                    chunk = os.read(key.fd, _READ)
                    *lines, rest = (left[stream] + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
                    yield from (line.decode("utf8", "replace") for line in lines)
                    left[stream] = rest
                    if not chunk:
                        selector.unregister(stream)
                        yield from _text(left.pop(stream))
        for rest in left.values():
            yield from _text(rest)

    def _some_live(self) -> bool:
        """Look at all of them; once one has failed the others are ended, if they do not do so by themselves."""
        codes = [process.poll() for process in self._processes]
        failed = [(code, rank) for rank, code in enumerate(codes) if code]
        if failed and self._failed_at is None:
            self._failed_at = time.monotonic()
            self._code, rank = min(failed)
            if self._code < 0 and not self._kills:
                self.killed = Killed(rank, self._code)
        living = None in codes
        if living and self._failed_at is not None and time.monotonic() > self._failed_at + _GRACE_S:
            self._signal_groups(signal.SIGKILL)
        return living

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        leave_closed_terminal()
        if self.stopped_by is not None and number == signal.SIGINT:
            # The second Ctrl-C means now: the newest complete checkpoint stays, this step is lost.
            self._kills = True
            self._signal_groups(signal.SIGKILL)
            return
        self.stopped_by = number
        for process in self._processes:
            process.send_signal(number)  # nothing, if it has ended

    def _signal_groups(self, number: int) -> None:
        for pid in self.pids:
            signal_group(pid, number)

    def _end(self) -> None:
        if any(process.poll() is None for process in self._processes):
            self._signal_groups(signal.SIGTERM)
            wait_for(self._processes, 10)
        self._signal_groups(signal.SIGKILL)
        for process in self._processes:
            process.wait()
            if process.stdout:
                process.stdout.close()


def _start(argv: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # The terminal sends Ctrl-C to its whole group: a child must get it once, from us.
        start_new_session=True,
        env=os.environ | environment,
    )


def _text(rest: bytes) -> Iterator[str]:
    if rest:
        yield rest.decode("utf8", "replace")
