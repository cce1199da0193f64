"""The person beside the robot: says when the scene is ready and how a trial went, by a key or by a line of a pipe."""

import contextlib
import os
import queue
import select
import signal
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from threading import Event
from types import FrameType
from typing import Any, Self

from hlrp.errors import WorkError
from hlrp.processes import leave_closed_terminal, signal_handlers

_POLL_S = 0.1
_QUIT = ("q", "quit", "esc")
_GO = ("enter", "space")


class Outcome(StrEnum):
    """How a trial ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"


_OUTCOMES = {word: outcome for outcome in Outcome for word in (outcome.value[0], outcome.value)}


class Stop:
    """The wish to stop, of a signal; a context that takes signals over. A second Ctrl-C is `KeyboardInterrupt`.

    The robot's step in progress ends first: half a message on its bus could keep it from being let go.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.trial_over = Event()
        """Ends LeRobot's control loop: set by a signal, by a key, or by LeRobot itself."""
        self._taken = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._taken.enter_context(signal_handlers(self._on_signal))
        return self

    def __exit__(self, *_: object) -> None:
        self._taken.close()

    @property
    def wished(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        leave_closed_terminal()
        if self.wished and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        self.trial_over.set()


class Operator:
    """Asks a person for keys where standard input is a terminal, else reads one line for each question; a context.

    Lines of a pipe may be there long before they are asked for, so they do not end a trial: its time does.

    Args:
        stop: Ends waiting.
        say: Given what the person should read.
    """

    def __init__(self, stop: Stop, say: Callable[[str], None]) -> None:
        self._stop, self._say = stop, say
        self._keys: queue.SimpleQueue[str] | None = queue.SimpleQueue() if sys.stdin.isatty() else None
        self._press: Callable[[str], None] | None = None
        self._listener: Any = None
        self._read = b""

    def __enter__(self) -> Self:
        if self._keys is not None:
            from lerobot.utils.keyboard_input import TerminalKeyListener

            # Not its listener to all windows' keys: an s typed elsewhere would be a success.
            self._listener = TerminalKeyListener(lambda key: (self._press or self._keep)(key.lower()))
            self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.stop()

    def ready(self, what: str) -> bool:
        """Wait until the scene is ready; False: the person ends the series for now, or a signal does.

        Raises:
            WorkError: The pipe has ended.
        """
        question = f"{what}: set up the scene, then Enter starts it; q ends the series for now"
        answer = self._answer(question, (*_GO, *_QUIT))
        return answer in _GO

    def outcome(self) -> Outcome | None:
        """How the trial went; None: a signal came instead.

        Raises:
            WorkError: The pipe has ended.
        """
        question = "how did it go? s: success, f: failure, d: discard it and try again"
        answer = self._answer(question, tuple(_OUTCOMES))
        return None if answer is None else _OUTCOMES[answer]

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Outcome]]:
        """Have keys end the trial that runs inside; gives a list that then holds its outcome, if a key said it."""
        said: list[Outcome] = []
        if self._keys is None:
            yield said
            return

        def press(key: str) -> None:
            if key in (*_OUTCOMES, *_GO):
                said.extend([_OUTCOMES[key]] if key in _OUTCOMES and not said else [])
                self._stop.trial_over.set()

        self._press = press
        self._say("runs; s, f or d ends it as success, failure or discarded, Enter ends it")
        try:
            yield said
        finally:
            self._press = None

    def _keep(self, key: str) -> None:
        if self._keys is not None:
            self._keys.put(key)

    def _answer(self, question: str, known: tuple[str, ...]) -> str | None:
        # A key that was pressed before the question is no answer to it; one that was pressed at once is.
        while self._keys is not None and not self._keys.empty():
            self._keys.get()
        self._say(question)
        while not self._stop.wished:
            answer = self._next()
            if answer in known:
                return answer
            if answer is not None:
                self._say(f"{answer!r} is none of {', '.join(word for word in known if len(word) == 1 or word in _GO)}")
        return None

    def _next(self) -> str | None:
        """A key or a line within a moment."""
        if self._keys is not None:
            with contextlib.suppress(queue.Empty):
                return self._keys.get(timeout=_POLL_S)
            return None
        line, found, rest = self._read.partition(b"\n")
        if found:
            self._read = rest
            return line.decode(errors="replace").strip().lower() or "enter"
        # Not Python's buffered reader: waiting in it, nothing can be told apart from a line that never comes.
        if select.select([0], [], [], _POLL_S)[0]:
            more = os.read(0, 4096)
            if not more and not self._read:
                raise WorkError("standard input ended before the series did; run it again to go on")
            self._read += more or b"\n"
        return None
