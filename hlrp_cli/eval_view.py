"""Showing an evaluation: progress while it runs, tables when it is done."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.evaluation.request import DIAGNOSIS, Listener
from hlrp.progress import ProgressDisplay
from hlrp_cli.console import console

if TYPE_CHECKING:
    from hlrp.evaluation.diagnosis.findings import Diagnosis
    from hlrp.evaluation.request import EvalResult


class EvalView(ProgressDisplay, Listener):
    """Episodes done, running success, steps per second and ETA."""

    def __init__(self) -> None:
        super().__init__(console(), "episodes")
        self.note("loading LeRobot, the environment and the policy")

    def started(self, task: str, episodes: int) -> None:
        """Begin a task's bar."""
        self._done = 0
        self._success = ""
        self._steps = 0
        self._start = time.monotonic()
        self.begin(task, episodes)
        self.update(0)

    def stepped(self, _task: str) -> None:
        """Count a step of the batch."""
        self._steps += 1
        self._show()

    def finished(self, _task: str, done: int, successes: int) -> None:
        """Show the episodes done so far."""
        self._done, self._success = done, f"{successes}/{done} succeeded"
        self._show()

    def _show(self) -> None:
        steps_per_s = self._steps / max(time.monotonic() - self._start, 1e-9)
        self.update(self._done, self._success, rate=f"{steps_per_s:.0f} steps/s")


def show(result: "EvalResult", hint: str | None = None) -> None:
    """Print tables of what was found and where the files are, on standard output; ``hint`` is a command to type."""
    out, results = console(result=True), result.to_json()
    if results["replay"]:
        _replay_table(out, results["replay"])
    if results["overall"]:
        _success_table(out, results)
    if results["code_effect"]:
        from hlrp.runs.code_effect import describe_code_effect

        out.print(f"codes    {describe_code_effect(results['code_effect'])}", markup=False)
    if results["comparison"]:
        _comparison(out, results["comparison"])
    if hint is not None:
        out.print(f"why      {hint}", markup=False)
    out.print(f"results  {result.folder / 'results.json'}", markup=False)
    if any(t["videos"] for t in results["tasks"].values()):
        out.print(f"videos   {result.folder / 'videos'}", markup=False)
    out.print(f"page     hlrp report {shlex.quote(str(result.folder))}", markup=False)


def show_diagnosis(found: "Diagnosis", page: Path) -> None:
    """Print layer by layer what was seen, then the verdict, what to do, and where the files are."""
    from rich.markup import escape
    from rich.table import Table

    out, words = console(result=True), {"pass": "agrees", "fail": "fails", "open": "open"}
    table = Table("layer", "check", "", "what was seen", box=None, pad_edge=False)
    for finding in found.findings:
        table.add_row(finding.layer, finding.check, words[finding.status], escape(finding.line))
    out.print(table)
    out.print(f"verdict  {found.verdict}", markup=False, soft_wrap=True)
    if found.faults and found.faults[0].fix:
        out.print(f"fix      {found.faults[0].fix}", markup=False, soft_wrap=True)
    out.print(f"numbers  {found.folder / DIAGNOSIS}", markup=False)
    out.print(f"page     {page}", markup=False)


def _success_table(out: Any, results: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("task", box=None, pad_edge=False)
    for name in ("success", "rate", "95 % interval", "return", "length"):
        table.add_column(name, justify="right")
    rows = dict(results["tasks"])
    if len(rows) > 1:
        rows["all"] = results["overall"]
    for task, row in rows.items():
        table.add_row(
            task,
            f"{row['successes']}/{row['episodes']}",
            f"{100 * row['success_rate']:.0f} %",
            f"{100 * row['success_interval'][0]:.0f} to {100 * row['success_interval'][1]:.0f} %",
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
    for name, (here, there) in comparison.get("inference", {}).items():
        out.print(f"note     {name} was {here!r} here, {there!r} there: it is part of what is compared", markup=False)
    out.print(
        f"against {comparison['other']}: {100 * comparison['difference']:+.0f} points of success, 95 % interval "
        f"{100 * low:+.0f} to {100 * high:+.0f}, {comparison['pairs']} pairs "
        f"({comparison['only_this']} only here, {comparison['only_other']} only there): {comparison['verdict']}",
        markup=False,
    )
