"""Showing an evaluation: progress while it runs, tables when it is done."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hlrp_cli.console import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from hlrp.evaluation.request import EvalResult

_LINE_INTERVAL_S = 5.0


class EvalView:
    """Episodes done, running success, steps per second and ETA: a bar on a terminal, lines anywhere else."""

    def __init__(self) -> None:
        self._console = console()
        self._bar: Progress | None = self._make_bar() if self._console.is_terminal else None
        self._row: TaskID | None = None
        self._total = self._done = self._successes = self._steps = 0
        self._start = self._last_line = time.monotonic()

    def _make_bar(self) -> "Progress":
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        parts = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        return Progress(*parts, TextColumn("{task.fields[state]}"), TimeRemainingColumn(), console=self._console)

    def __enter__(self) -> "EvalView":
        self.note("loading LeRobot, the environment and the policy")
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def started(self, task: str, episodes: int) -> None:
        """Begin a task's bar."""
        self._total = episodes
        self._done = 0
        self._successes = 0
        self._steps = 0
        self._start = self._last_line = time.monotonic()
        if self._bar:
            self._row = self._bar.add_task(task, total=episodes, state="")
        else:
            self.note(f"{task}: {episodes} episodes")

    def stepped(self, task: str) -> None:
        """Count a step of the batch."""
        self._steps += 1
        self._show(task, finished=False)

    def finished(self, task: str, done: int, successes: int) -> None:
        """Show the episodes done so far."""
        self._done, self._successes = done, successes
        self._show(task, finished=done >= self._total)

    def _show(self, task: str, *, finished: bool) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = f"{self._steps / seconds:.0f} steps/s" if self._steps else ""
        success = f"{self._successes}/{self._done} succeeded" if self._done else ""
        state = ", ".join(s for s in (success, rate) if s)
        if self._bar and self._row is not None:
            self._bar.update(self._row, completed=self._done, state=state)
        elif finished or time.monotonic() - self._last_line > _LINE_INTERVAL_S:
            self._last_line = time.monotonic()
            left = f", {seconds / self._done * (self._total - self._done):.0f} s left" if self._done else ""
            self.note(f"{task}: {self._done}/{self._total} episodes, {state}{'' if finished else left}")


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _interval(pair: list[float]) -> str:
    return f"{100 * pair[0]:.0f} to {100 * pair[1]:.0f} %"


def show(result: "EvalResult") -> None:
    """Print tables of what was found and where the files are, on standard output."""
    import sys

    from rich.console import Console

    terminal = sys.stdout.isatty()
    out = Console(file=sys.stdout, highlight=False, width=None if terminal else 160, soft_wrap=not terminal)
    found = result.to_json()
    if found["replay"]:
        _replay_table(out, found["replay"])
    if found["overall"]:
        _success_table(out, found)
    if found["comparison"]:
        _comparison(out, found["comparison"])
    out.print(f"results  {result.folder / 'results.json'}", markup=False)
    if any(t["videos"] for t in found["tasks"].values()):
        out.print(f"videos   {result.folder / 'videos'}", markup=False)


def _success_table(out: Any, found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("task", box=None, pad_edge=False)
    for name in ("success", "rate", "95 % interval", "return", "length"):
        table.add_column(name, justify="right")
    rows = dict(found["tasks"])
    if len(rows) > 1:
        rows["all"] = found["overall"]
    for task, row in rows.items():
        table.add_row(
            task,
            f"{row['successes']}/{row['episodes']}",
            _percent(row["success_rate"]),
            _interval(row["success_interval"]),
            f"{row['mean_return']:.1f}",
            f"{row['mean_length']:.0f}",
        )
    out.print(table)


def _replay_table(out: Any, replay: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("replayed recording", box=None, pad_edge=False)
    table.add_column("success", justify="right")
    for task, row in replay["tasks"].items():
        table.add_row(task, f"{row['successes']}/{row['episodes']}")
    out.print(table)
    said = "reproduces" if replay["reproduced"] else "does not reproduce"
    out.print(f"the environment {said} the recording {replay['dataset']}", markup=False)


def _comparison(out: Any, comparison: dict[str, Any]) -> None:
    low, high = comparison["interval"]
    out.print(
        f"against {comparison['other']}: {100 * comparison['difference']:+.0f} points of success, 95 % interval "
        f"{100 * low:+.0f} to {100 * high:+.0f}, {comparison['pairs']} pairs "
        f"({comparison['only_this']} only here, {comparison['only_other']} only there): {comparison['verdict']}",
        markup=False,
    )
