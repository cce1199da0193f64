"""Showing a training run: a live bar on a terminal, one line every few seconds anywhere else."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_LINE_INTERVAL_S = 5.0


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class TrainingProgress:
    """Steps, loss, rate, ETA and the share of time spent waiting for data.

    Args:
        console: Where to draw; a bar only if it is a terminal.
        total: Steps at which the run ends.
        start: Step it starts from (more than 0 on resume).
    """

    def __init__(self, console: "Console", total: int, start: int = 0) -> None:
        self._console = console
        self._total = total
        self._start_step = self._step = start
        self._started: float | None = None
        self._first_step = start
        self._last_line = 0.0
        self._row: dict[str, Any] = {}
        self._bar: Progress | None = self._make_bar() if console.is_terminal else None
        self._task = (
            self._bar.add_task("waiting for the first step", total=total, completed=start) if self._bar else None
        )

    def _make_bar(self) -> "Progress":
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), MofNCompleteColumn(), BarColumn(bar_width=None), TimeElapsedColumn())
        return Progress(*columns, TextColumn("{task.description}"), console=self._console)

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def phase(self, text: str) -> None:
        """Say what happens before the first step."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=text)
        else:
            self._console.print(text)

    def step(self, step: int) -> None:
        """Count a step; the rate is measured from the first one on, so that start-up does not dilute it."""
        if self._started is None:
            self._started, self._first_step = time.monotonic(), step
        self._step = max(step, self._step)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._step, description=self._describe())

    def row(self, row: dict[str, Any]) -> None:
        """Show a row of metrics."""
        self._row = row
        self.step(row["step"])
        moment = time.monotonic()
        if not self._bar and (moment - self._last_line >= _LINE_INTERVAL_S or row["step"] >= self._total):
            self._last_line = moment
            self._console.print(f"step {row['step']}/{self._total}  {self._describe()}")

    def _rate(self) -> float | None:
        if self._started is not None and self._step > self._first_step:
            return (self._step - self._first_step) / max(time.monotonic() - self._started, 1e-9)
        busy = self._row.get("update_s", 0.0) + self._row.get("data_s", 0.0)
        return 1.0 / busy if busy else None

    def _describe(self) -> str:
        parts = []
        if "loss" in self._row:
            parts.append(f"loss {self._row['loss']:.4g}")
        rate = self._rate()
        if rate:
            parts.append(f"{rate:.3g} steps/s")
        if "data_wait" in self._row:
            parts.append(f"data wait {self._row['data_wait']:.0%}")
        if rate:
            parts.append(f"ETA {clock((self._total - self._step) / rate)}")
        return "  ".join(parts) or "training"
