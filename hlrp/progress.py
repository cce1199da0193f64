"""Showing how far work is: a live bar on a terminal, a line every few seconds anywhere else."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_LINE_INTERVAL_S = 5.0


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class ProgressDisplay:
    """What is done of how much, rate, ETA, and what else there is to say; a context.

    Args:
        console: Where to draw; a bar only if it is a terminal.
        unit: What is counted: steps, episodes, frames.
        bar: False: lines on a terminal too.
    """

    def __init__(self, console: "Console", unit: str, *, bar: bool = True) -> None:
        self._console = console
        self._unit = unit
        self._what = ""
        self._total = 0
        self._bar: Progress | None = self._make_bar() if bar and console.is_terminal else None
        self._task: TaskID | None = None
        self._began: float | None = None
        self._first = 0
        self._last_line: float | None = None

    def _make_bar(self) -> "Progress":
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        said = TextColumn("{task.fields[said]}", markup=False)
        return Progress(*columns, TimeElapsedColumn(), said, console=self._console)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Print a line; a bar stays below it."""
        self._console.print(text, markup=False)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Begin a piece of work, ``done`` of whose ``total`` is done already."""
        self._what = what
        self._total = total
        self._began = None
        self._last_line = None
        if self._bar:
            self._task = self._bar.add_task(what, total=total, completed=done, said="")

    def phase(self, what: str) -> None:
        """Say what the work is at, before there is anything to count."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=what)
        else:
            self.note(what)

    def update(self, done: int, *details: str, total: int | None = None, rate: str = "", line: bool = True) -> None:
        """Show what is done.

        The rate is measured from the first call on, so that start-up does not dilute it. Without a terminal the first
        call prints a line, the last one, and one every few seconds.

        Args:
            done: Of the total, what former processes did included.
            details: Shown with it; empty ones are left out.
            total: Takes the place of that of `begin`.
            rate: Shown in place of units per second, where another figure says more.
            line: Print a line if one is due; otherwise only a bar moves.
        """
        now = time.monotonic()
        self._total = self._total if total is None else total
        if self._began is None:
            self._began, self._first = now, done
        speed = (done - self._first) / max(now - self._began, 1e-9)
        if speed:
            rate = rate or f"{speed:.3g} {self._unit}/s"
        eta = f"ETA {_clock((self._total - done) / speed)}" if speed else ""
        said = ", ".join(part for part in (*details, rate, eta) if part)
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=self._what, total=self._total, completed=done, said=said)
        elif line and (self._last_line is None or now - self._last_line >= _LINE_INTERVAL_S or done >= self._total):
            self._last_line = now
            self.note(f"{self._what}: {done}/{self._total} {self._unit}{said and ', ' + said}")


def counted_lines(console: "Console", what: str, unit: str) -> Callable[[int, int], None]:
    """A function to call as (done, to do): prints a line every few seconds, with rate and ETA.

    Args:
        console: Where to.
        what: Is being done.
        unit: What is counted.
    """
    display: ProgressDisplay | None = None

    def progress(done: int, total: int) -> None:
        nonlocal display
        if display is None:
            display = ProgressDisplay(console, unit, bar=False)
            display.begin(what, total)
        display.update(done, total=total)
        if done >= total:
            display = None  # what is counted next is other work

    return progress
