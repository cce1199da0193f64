"""One LeRobot training process: its output becomes the log, the metrics, the progress and the outcome."""

import math
import re
import shutil
import time
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.files import json_text
from hlrp.finite import NonFiniteError
from hlrp.processes import FolderLock
from hlrp.runs import RunDirectory
from hlrp.runs.directory import LOG, METRICS
from trainers.base import RunResult
from trainers.events import parse_line
from trainers.lerobot_command import Command
from trainers.process import TrainingProcess
from trainers.progress import TrainingProgress

_TAIL = 400
# LeRobot draws its own bar whoever watches; a log has no use for its thousand states.
_BAR = re.compile(r"[^|]*\d+%\|")


class TrainingSession:
    """Runs a command and keeps its run directory.

    Args:
        command: The process to start.
        lock: The right to write the run's folder, which the process shares.
        create: Makes (or reopens) the run directory; called once LeRobot has accepted the configuration, so that
            a refused one leaves nothing on disk.
        steps: Step at which the run ends.
        start: Step it starts from.
        notes: Warnings known before the start.
    """

    def __init__(
        self,
        command: Command,
        lock: FolderLock,
        create: Callable[[], RunDirectory],
        *,
        steps: int,
        start: int = 0,
        notes: list[str] | None = None,
    ) -> None:
        from rich.console import Console

        self._command, self._lock, self._create = command, lock, create
        self._steps, self._start = steps, start
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._warnings: list[str] = list(notes or [])
        self._directory: RunDirectory | None = None
        self._log: TextIO | None = None
        self._metrics: TextIO | None = None
        self._tail: list[str] = []
        self._row: dict[str, Any] = {}
        self._outcome: dict[str, Any] | None = None
        self._finite = True

    def run(self) -> RunResult:
        """Start the process and follow it to its end."""
        for note in self._warnings:
            self._console.print(f"warning: {note}", style="yellow")
        progress = TrainingProgress(self._console, self._steps, self._start)
        try:
            with progress, self._command.started() as argv:
                progress.phase("starting LeRobot")
                process = TrainingProcess(argv, self._command.environment)
                self._lock.add_process(process.pid)
                code = process.run(lambda line: self._on_line(line, progress))
        finally:
            for file in (self._log, self._metrics):
                if file:
                    file.close()
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
            self._begin(progress)
        elif kind == "imported":
            progress.phase("LeRobot is loaded; checking the configuration")
        elif kind == "step":
            progress.step(event["steps"])
        elif kind == "metrics":
            self._row = metrics_row(event)
            self._write_row(self._row)
            progress.row(self._row)
        elif kind in ("eval_loss", "rollouts"):
            row = {"step": event.pop("steps", self._row.get("step", 0)), **event}
            self._write_row(row)
        elif kind == "warning":
            self._warn(event["message"])
        elif kind in ("user_error", "failed", "interrupted"):
            self._outcome = {"kind": kind, **event}

    def _begin(self, progress: TrainingProgress) -> None:
        """LeRobot has accepted the configuration: only now does anything appear on disk."""
        self._directory = self._create()
        self._console.print(f"run: {self._directory.path}")
        self._log = (self._directory.path / LOG).open("a", encoding="utf8", errors="backslashreplace")
        self._log.writelines(line + "\n" for line in self._tail)
        self._metrics = (self._directory.path / METRICS).open("a", encoding="utf8")
        if self._warnings:
            self._directory.update(warnings=self._warnings)
        progress.phase("loading the dataset, making the policy")

    def _warn(self, message: str) -> None:
        if message in self._warnings:
            return
        self._warnings.append(message)
        self._console.print(f"warning: {message}", style="yellow")
        if self._directory:
            self._directory.update(warnings=self._warnings)

    def _write_row(self, row: dict[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(json_text({**row, "time": round(time.time(), 3)}) + "\n")
            self._metrics.flush()
        if not math.isfinite(row.get("loss", 0.0)) and self._finite:
            self._finite = False
            self._warn(
                f"the loss is not a finite number at step {row['step']}: lower the learning rate or check the data"
            )

    def _finish(self, code: int, stopped_by: int | None) -> RunResult:
        kind = self._outcome["kind"] if self._outcome else None
        directory = self._directory
        if kind == "user_error" or (directory is None and kind is None and stopped_by is None and code != 0):
            self._discard_if_fresh()
            message = self._outcome["message"] if kind == "user_error" and self._outcome else self._refusal()
            raise UserError(message)
        if kind == "interrupted" or stopped_by is not None:
            self._raise_interrupted(stopped_by)
        if code != 0 or directory is None:
            self._raise_failed(code)
        latest = directory.latest()
        directory.finish("finished", final_metrics=self._row, warnings=self._warnings)
        return RunResult(directory.path, latest.path if latest else None, self._row, self._warnings)

    def _discard_if_fresh(self) -> None:
        """A refusal after the folder was made leaves nothing half-written, unless there is training to keep."""
        if self._directory and self._start == 0 and not self._directory.checkpoints():
            shutil.rmtree(self._directory.path)

    def _refusal(self) -> str:
        """The message with which LeRobot's argument parser refused: from its last `error:` line on."""
        starts = [i for i, line in enumerate(self._tail) if "error:" in line.lower()]
        lines = self._tail[starts[-1] :] if starts else self._tail[-1:] or ["it printed nothing"]
        reason = " ".join(line.strip() for line in lines)
        return f"LeRobot did not accept the settings: {reason.partition('error: ')[2] or reason}"

    def _raise_interrupted(self, stopped_by: int | None) -> NoReturn:
        number = int((self._outcome or {}).get("signal") or stopped_by or 15)
        if self._directory is None:
            raise Interrupted("interrupted before training began; nothing was written", number)
        latest = self._directory.latest()
        reason = f"stopped by signal {number}"
        self._directory.finish("interrupted", reason=reason, final_metrics=self._row, warnings=self._warnings)
        kept = f"checkpoint {latest.path.name} is saved" if latest else "there is no checkpoint yet"
        hint = f"; go on with: hlrp train --resume {self._directory.path}" if latest else ""
        raise Interrupted(f"interrupted: {kept}{hint}", number)

    def _raise_failed(self, code: int) -> NoReturn:
        outcome = self._outcome or {}
        error, message = outcome.get("error", ""), outcome.get("message", "")
        reason = explain_failure(error, message, code, self._tail)
        if self._directory is None:
            raise WorkError(reason)
        if error == NonFiniteError.__name__:
            reason = f"{message}; {kept_checkpoint(self._directory)}"
        self._directory.finish("failed", reason=reason, final_metrics=self._row, warnings=self._warnings)
        raise WorkError(f"training failed: {reason}\n  log:   {self._directory.path / LOG}")


def kept_checkpoint(directory: RunDirectory) -> str:
    """Which checkpoint a run that came to no numbers has left."""
    latest = directory.latest()
    return f"the last good checkpoint is {latest.path.name}" if latest else "there is no checkpoint"


def metrics_row(event: dict[str, Any]) -> dict[str, Any]:
    """LeRobot's tracker as a row of `metrics.jsonl`: seconds a step, and the share of them spent waiting for data."""
    row = {"step": event.pop("steps"), "data_s": event.pop("dataloading_s", 0.0), **event}
    busy = row.get("update_s", 0.0) + row["data_s"]
    row["data_wait"] = row["data_s"] / busy if busy else 0.0
    return row


_KNOWN_FAILURES = {
    ("out of memory",): "the device ran out of memory: use a smaller --batch-size, or --precision bf16",
    ("No space left",): "the disk is full: free space and go on with --resume",
    ("killed by signal", "exited unexpectedly"): "a data worker died, mostly for want of memory: "
    "set a smaller data.num_workers or --batch-size",
    (
        "outgoing traffic has been disabled",
        "LocalEntryNotFound",
        "offline mode",
        "couldn't connect",
    ): "a file is needed "
    "that is not on this machine, and nothing is downloaded unless asked: give a local folder, or add --allow-download",
}


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0] if message.strip() else "no message"


def explain_failure(error: str, message: str, code: int, tail: list[str]) -> str:
    """One readable sentence of why a training process ended, with what to do where that is known."""
    text = f"{error} {message}"
    for signs, advice in _KNOWN_FAILURES.items():
        if any(sign in text for sign in signs):
            return f"{advice} ({_first_line(message)})"
    if error:
        return f"{error}: {_first_line(message)}"
    if code < 0:
        return f"the process was killed by signal {-code}" + (" (often: out of memory)" if code == -9 else "")
    last = next((line for line in reversed(tail) if line.strip()), "no output")
    return f"LeRobot's process ended with code {code}: {last.strip()}"
