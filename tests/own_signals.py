"""Signals that a test sends to its own process."""

import os
import signal


def deliver(number: int) -> None:
    """Have this process's handler called as the signal would have it called; SIGKILL, which has none, is sent.

    Without a handler that is a failure of the test; the signal itself would end the worker and all tests with it.
    """
    if number == signal.SIGKILL:
        os.kill(os.getpid(), number)
    handler = signal.getsignal(number)
    assert callable(handler), f"signal {number} would end this process: {handler}"
    handler(number, None)
