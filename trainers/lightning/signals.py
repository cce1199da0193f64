"""Stopping a Lightning run in order: SIGINT, SIGTERM and SIGHUP become a wish, granted when a step is complete."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from hlrp.errors import Interrupted
from hlrp.processes import leave_closed_terminal, stop_signals


class StopRequests:
    """Context that takes the signals over that stop a run; outside the main thread it does nothing.

    Before training starts a signal ends the command at once, since there is nothing to save. After that the first one
    is remembered, and a second Ctrl-C no longer waits for the step to end.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.training = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in stop_signals()}
            self.install()
        return self

    def install(self) -> None:
        """Set the handlers again: Lightning puts its own in front of them, which talk to other processes."""
        for number in self._before:
            signal.signal(number, self._on_signal)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        leave_closed_terminal()
        if not self.training:
            raise Interrupted("interrupted before training began; there is nothing to save", number)
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


class StoppedBySignal(Exception):  # noqa: N818 - a stop in order is no error
    """Leaves Lightning's loops after the checkpoint of an interrupted run was saved."""
