"""Showing a training run: steps, loss, rate, ETA and the share of time spent waiting for data."""

from typing import TYPE_CHECKING, Any

from hlrp.progress import ProgressDisplay

if TYPE_CHECKING:
    from rich.console import Console


class TrainingProgress(ProgressDisplay):
    """The progress of a run's steps.

    Args:
        console: Where to draw; a bar only if it is a terminal.
        total: Steps at which the run ends.
        start: Step it starts from (more than 0 on resume).
    """

    def __init__(self, console: "Console", total: int, start: int = 0) -> None:
        super().__init__(console, "steps")
        self._step = start
        self._details: list[str] = []
        self.begin("training", total, start)
        if console.is_terminal:
            self.phase("waiting for the first step")

    def step(self, step: int) -> None:
        """Count a step."""
        self._step = max(step, self._step)
        self.update(self._step, *self._details, line=False)

    def row(self, row: dict[str, Any]) -> None:
        """Show a row of metrics."""
        self._step = max(row["step"], self._step)
        loss = f"loss {row['loss']:.4g}" if "loss" in row else ""
        self._details = [loss, f"data wait {row['data_wait']:.0%}" if "data_wait" in row else ""]
        self.update(self._step, *self._details)
