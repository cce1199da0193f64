"""One LeRobot training process: its output becomes the log, the metrics, the progress and the outcome."""

import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from hlrp.config import LeRobotRun
from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.finite import NonFiniteError
from hlrp.locks import FolderLock
from hlrp.runs import Checkpoint, RunDirectory
from hlrp.runs.directory import LOG
from trainers.base import RunResult
from trainers.crew import Crew
from trainers.failures import explain_failure
from trainers.lerobot.command import Command
from trainers.lerobot.events import FOLLOWS, OUTCOMES, parse_line
from trainers.lerobot.process import TrainingProcess
from trainers.lifecycle import RunLifecycle
from trainers.progress import TrainingProgress

_TAIL = 400
# LeRobot draws its own bar whoever watches; a log has no use for its thousand states.
_BAR = re.compile(r"[^|]*\d+%\|")
_ROLLED_OUT = frozenset({"eval_success", "pc_success"})


class TrainingSession:
    """Runs a command and keeps its run directory.

    Args:
        command: The process to start.
        lock: The right to write the run's folder, which the process shares.
        lifecycle: The run.
        begin: Makes (or reopens) the run directory; called once LeRobot has accepted the configuration, so that
            a refused one leaves nothing on disk.
        steps: Step at which the run ends.
        start: Step it starts from.
    """

    def __init__(
        self,
        command: Command,
        lock: FolderLock,
        lifecycle: RunLifecycle,
        begin: Callable[[], RunDirectory],
        *,
        steps: int,
        start: int = 0,
    ) -> None:
        self._command = command
        self._lock = lock
        self._lifecycle = lifecycle
        self._begin = begin
        self._steps, self._start = steps, start
        self._log: TextIO | None = None
        self._tail: list[str] = []
        self._outcome: dict[str, Any] = {}
        self._process: TrainingProcess | None = None

    def run(self) -> RunResult:
        """Start the process and follow it to its end."""
        progress = TrainingProgress(self._lifecycle.console, self._steps, self._start)
        try:
            with progress, self._command.started() as argv:
                progress.phase("starting LeRobot")
                process = self._process = TrainingProcess(argv, *self._command.environments())
                for pid in process.pids:
                    self._lock.add_process(pid)
                _end_with_crew(process)
                code = process.run(lambda line: self._on_line(line, progress))
        finally:
            if self._log:
                self._log.close()
        return self._finish(code, process.stopped_by)

    def _on_line(self, line: str, progress: TrainingProgress) -> None:
        text, event = parse_line(line)
        if text and not _BAR.match(text):
            self._tail = [*self._tail[-_TAIL:], text]
            if self._log:
                self._log.write(text + "\n")
                self._log.flush()
        if event:
            self._on_event(event, progress)

    def _on_event(self, event: dict[str, Any], progress: TrainingProgress) -> None:
        kind = event.pop("event")
        if kind == "accepted":
            self._open_log(self._begin())
            progress.phase("loading the dataset, making the policy")
        elif kind == "imported":
            progress.phase("LeRobot is loaded; checking the configuration")
        elif kind == "step":
            progress.step(event["steps"])
        elif kind == "metrics":
            row = metrics_row(event)
            self._lifecycle.training_row(row)
            progress.row(row)
        elif kind in ("eval_loss", "rollouts"):
            self._lifecycle.write_row({"step": event.pop("steps"), **event})
        elif kind == "warning":
            self._lifecycle.warn(event["message"])
        elif kind in OUTCOMES and not self._outcome and (self._process is None or self._process.killed is None):
            self._outcome = {"kind": kind, **event}  # of several processes that of the one that ended first

    def _open_log(self, directory: RunDirectory) -> None:
        self._log = (directory.path / LOG).open("a", encoding="utf8", errors="backslashreplace")
        self._log.writelines(line + "\n" for line in self._tail)

    def _finish(self, code: int, stopped_by: int | None) -> RunResult:
        outcome, lifecycle = self._outcome, self._lifecycle
        kind = outcome.get("kind")
        if kind == "refused":
            if outcome["trained"]:
                lifecycle.failed(outcome["message"])
            else:
                lifecycle.discard_if_fresh()
            raise _refused(outcome)
        if lifecycle.directory is None and kind is None and stopped_by is None and code != 0:
            raise UserError(self._refusal())
        if kind == "interrupted" or stopped_by is not None:
            raise lifecycle.interrupted(int(outcome.get("signal") or stopped_by or signal.SIGTERM))
        if code == 0 and lifecycle.directory is not None:
            return lifecycle.finish()
        error, message = outcome.get("error", ""), outcome.get("message", "")
        left_numbers = error == NonFiniteError.__name__
        raise lifecycle.failed(
            message if left_numbers else self._reason(error, message, code), left_numbers=left_numbers
        )

    def _reason(self, error: str, message: str, code: int) -> str:
        """Of a failure, with the number of the process among several where that is known."""
        killed = self._process.killed if self._process is not None else None
        several = self._command.processes > 1
        rank = killed.rank if killed is not None else self._outcome.get("rank", 0)
        name = f"process {rank} of {self._command.processes}"
        if several and killed is not None:
            return explain_failure("", "", killed.code, process=name)
        reason = explain_failure(error, message, code, self._tail)
        return f"{name}: {reason}" if several and rank else reason

    def _refusal(self) -> str:
        """The message with which LeRobot's argument parser refused: from its last `error:` line on."""
        starts = [i for i, line in enumerate(self._tail) if "error:" in line.lower()]
        lines = self._tail[starts[-1] :] if starts else self._tail[-1:] or ["it printed nothing"]
        reason = " ".join(line.strip() for line in lines)
        return f"LeRobot did not accept the settings: {reason.partition('error: ')[2] or reason}"


def _refused(outcome: dict[str, Any]) -> UserError | WorkError:
    """An error of this project's in the process, as it would be here."""
    return (UserError if outcome["code"] == UserError.exit_code else WorkError)(outcome["message"])


def _end_with_crew(process: TrainingProcess) -> None:
    if Crew.current is not None:
        Crew.current.groups.extend(process.pids)


def follow(command: Command) -> RunResult:
    """Run the process of one that is not the first of several, which keeps the run's folder.

    Raises:
        UserError, WorkError, Interrupted: As the process ended.
    """
    tail: list[str] = []
    outcome: dict[str, Any] = {}

    def on_line(line: str) -> None:
        text, event = parse_line(line)
        tail.append(text)
        del tail[:-_TAIL]
        outcome.update(event or {})

    with command.started() as argv:
        process = TrainingProcess(argv, command.environment | {FOLLOWS: "1"})
        _end_with_crew(process)
        code = process.run(on_line)
    number = outcome.get("signal") or process.stopped_by
    if code == 0:
        return RunResult(Path.cwd(), None, {}, [])
    if outcome.get("event") == "refused":
        raise _refused(outcome)
    if number is not None or outcome.get("event") == "interrupted":
        raise Interrupted("", int(number or signal.SIGTERM))
    raise WorkError(explain_failure(outcome.get("error", ""), outcome.get("message", ""), code, tail))


def metrics_row(event: dict[str, Any]) -> dict[str, Any]:
    """LeRobot's tracker as a row of `metrics.jsonl`: seconds a step, and the share of them spent waiting for data."""
    row = {"step": event.pop("steps"), "data_s": event.pop("dataloading_s", 0.0), **event}
    busy = row.get("update_s", 0.0) + row["data_s"]
    row["data_wait"] = row["data_s"] / busy if busy else 0.0
    return row


def missed_rollouts(directory: RunDirectory, run: LeRobotRun, checkpoint: Checkpoint) -> list[str]:
    """What to say where a run goes on from a step whose rollouts were ended: LeRobot's loop does not make them up."""
    freq = run.trainer.eval_freq
    rows = (row for row in directory.metrics() if row.get("step") == checkpoint.step)
    if freq == 0 or checkpoint.step % freq or any(not _ROLLED_OUT.isdisjoint(row) for row in rows):
        return []
    typed = shlex.join(["hlrp", "eval", str(checkpoint.path)])
    return [f"the rollouts at step {checkpoint.step} are missing, the run was ended before they were: {typed}"]
