"""What every training run does with its folder, whichever engine trains: begin or go on, report, and end."""

import datetime as dt
import math
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hlrp.config import ClassPath, LeRobotRun, LightningRun, OtherRun, PolicyModel, TrainerSection, to_yaml
from hlrp.data.shuffling import SHUFFLING
from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.files import json_text
from hlrp.runs import Checkpoint, DatasetRecord, ResumeRecord, RunDirectory
from hlrp.runs.code_effect import code_effect_warning, last_code_effect
from hlrp.runs.directory import LOG, METRICS, git_commit
from hlrp.runs.manifest import MANIFEST, JobRecord, RunManifest
from hlrp.slurm import own_job, own_log
from trainers.base import RunResult
from trainers.crew import Crew
from trainers.data_places import keep_places, recorded_at
from trainers.pushing import push_finished

# On a GPU, asking all processes whether one of them was told to stop waits for the device; not on every step.
STEPS_BETWEEN_QUESTIONS = 10
_LONGEST_ROLLOUTS = dt.timedelta(days=30)


class RunLifecycle:
    """One run, from its first file to how it ended.

    Until `create` or `reopen` nothing is written. Of several processes that train together only the first one calls
    them; in the others nothing is written at all.

    Args:
        notes: Warnings known before the start.
        quiet: Say nothing on the terminal.
    """

    def __init__(self, notes: Sequence[str] = (), *, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self.directory: RunDirectory | None = None
        self.warnings: list[str] = []
        self.last_row: dict[str, Any] = {}
        self._code_effect: dict[str, Any] | None = None
        self._fresh = False
        self._repo_id: str | None = None
        self._finite = True
        self._process = os.getpid()
        self._before: RunManifest | None = None
        for note in notes:
            self.warn(note)

    def create(
        self,
        path: Path,
        run: LeRobotRun | LightningRun | OtherRun,
        *,
        policy: str,
        dataset: DatasetRecord,
        steps: int,
        command: Sequence[str],
        undescribed: dict[str, str] | None = None,
    ) -> RunDirectory:
        """Make the folder of a fresh run, or fill the one that is claimed; its arguments are fields of the manifest.

        Raises:
            UserError: There is something in it.
        """
        self._fresh = True
        self._repo_id = run.push_to_hub
        directory = RunDirectory.create(
            path,
            config_yaml=to_yaml(run),
            trainer=run.trainer_type,
            policy=policy,
            dataset=dataset,
            seed=run.trainer.seed,
            steps=steps,
            processes=run.trainer.processes,
            git_commit=git_commit(Path(__file__).parent),
            command=list(command),
            warnings=self.warnings,
            shuffling=SHUFFLING,
            undescribed=undescribed or {},
            **_own_job(),
        )
        return self._begin(directory)

    def reopen(
        self,
        directory: RunDirectory,
        checkpoint: Checkpoint,
        *,
        dataset: DatasetRecord,
        run: LeRobotRun | LightningRun | None = None,
        **fields: Any,
    ) -> RunDirectory:
        """Go on with a run from one of its checkpoints: what it did after that is taken out of its metrics.

        Args:
            directory: The run, which no other process writes.
            checkpoint: Where it goes on.
            dataset: Its data, for a manifest that says nothing of them.
            run: Its configuration, by which it is published when it is finished, and its data lie where they are now;
                None: it is not, and they lie where they were.
            **fields: Of the manifest, that change.
        """
        self._before = directory.manifest
        for lost in directory.rewind_metrics(checkpoint.step):
            self.warn(lost)
        for row in directory.metrics():
            if "loss" in row:
                self.last_row = {name: value for name, value in row.items() if name != "time"}
        resumed = ResumeRecord(step=checkpoint.step, skipped=self.warnings)
        known = directory.manifest.dataset
        if not directory.manifest.tells_data:
            fields["dataset"] = dataset
        elif run is not None and (found := recorded_at(known, run.data)) != known:
            keep_places(directory, run.data)
            fields["dataset"] = found
        fields |= _own_job() | ({"warnings": self.warnings} if self.warnings else {})
        self._repo_id = None if run is None else run.push_to_hub
        directory.update(status="running", reason=None, resumed=[*directory.manifest.resumed, resumed], **fields)
        return self._begin(directory)

    def _begin(self, directory: RunDirectory) -> RunDirectory:
        self.directory = directory
        if (crew := Crew.current) is not None:
            crew.last_words = lambda reason: self.end("failed", reason=reason)
        self.console.print(f"run: {directory.path}")
        return directory

    def warn(self, message: str) -> None:
        """Say it once, and keep it in the manifest."""
        if message in self.warnings:
            return
        self.warnings.append(message)
        self.console.print(f"warning: {message}", style="yellow")
        # A forked data worker has a copy of all this, and of a manifest that has changed since.
        if self.directory is not None and os.getpid() == self._process:
            self.directory.update(warnings=self.warnings)

    def training_row(self, row: dict[str, Any]) -> None:
        """Write a row of training, the last of which are the run's final metrics."""
        self.last_row = row
        self.write_row(row)
        if not math.isfinite(row.get("loss", 0.0)) and self._finite:
            self._finite = False
            self.warn(
                f"the loss is not a finite number at step {row['step']}: lower the learning rate or check the data"
            )

    def write_row(self, row: dict[str, Any]) -> None:
        """Add a row to `metrics.jsonl`, with the time of day."""
        self._code_effect = last_code_effect([row]) or self._code_effect
        if self.directory is not None:
            with (self.directory.path / METRICS).open("a", encoding="utf8") as file:
                file.write(json_text({**row, "time": round(time.time(), 3)}) + "\n")

    def flush(self) -> None:
        """Bring the rows to disk, before a checkpoint says that they happened."""
        if self.directory is not None and (path := self.directory.path / METRICS).is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def discard_if_fresh(self) -> bool:
        """After a refusal: remove the folder, unless there is training in it to keep; whether it is gone."""
        if self.directory is None or not self._fresh or self.directory.checkpoints():
            return False
        shutil.rmtree(self.directory.path)
        return True

    def put_back(self) -> bool:
        """If the run that goes on was finished before: its manifest is as it was then; whether it was."""
        if self.directory is None or self._before is None or self._before.status != "finished":
            return False
        self.directory.manifest = self._before
        self.directory.save()
        return True

    def finish(self) -> RunResult:
        """Close a run that came to its end, and publish it if that was asked for.

        Raises:
            WorkError: It was not published; it is closed.
        """
        if self._code_effect is not None and (problem := code_effect_warning(self._code_effect)):
            self.warn(problem)
        latest = self.end("finished")
        assert self.directory is not None
        published = None
        if self._repo_id is not None:
            self.console.print(f"publishing as {self._repo_id}")
            published = push_finished(self.directory.path, self._repo_id)
        checkpoint = latest.path if latest else None
        return RunResult(self.directory.path, checkpoint, self.last_row, self.warnings, published)

    def end(self, status: str, **reason: str) -> Checkpoint | None:
        """Write how the run ended; gives the newest checkpoint that it left."""
        directory = self.directory
        assert directory is not None, "it has begun"
        row = self.last_row or directory.manifest.final_metrics
        directory.finish(status, final_metrics=row, warnings=self.warnings, **reason)
        return directory.latest()

    def interrupted(self, number: int) -> Interrupted:
        """Close a run that a signal ended; the error says how to go on."""
        if self.directory is None:
            return Interrupted("interrupted before training began; nothing was written", number)
        latest = self.end("interrupted", reason=f"stopped by signal {number}")
        kept = f"checkpoint {latest.path.name} is saved" if latest else "there is no checkpoint yet"
        hint = f"; go on with: hlrp train --resume {shlex.quote(str(self.directory.path))}" if latest else ""
        return Interrupted(f"interrupted: {kept}{hint}", number, saved=latest is not None)

    def failed(self, reason: str, *, left_numbers: bool = False) -> WorkError:
        """Close a run that failed.

        Args:
            reason: One sentence.
            left_numbers: Its loss or its weights were no numbers any more: which checkpoint is good is said too.
        """
        if self.directory is None:
            return WorkError(reason)
        if left_numbers:
            latest = self.directory.latest()
            kept = f"the last good checkpoint is {latest.path.name}" if latest else "there is no checkpoint"
            reason = f"{reason}; {kept}"
        self.end("failed", reason=reason)
        return WorkError(f"training failed: {reason}\n  log:   {self.directory.path / LOG}")


def patient_group() -> Any:
    """A group of all processes to wait in while the first one rolls a policy out; all of them have to call this.

    The training's own group gives up on who is ten to thirty minutes late, and a suite of tasks takes longer.
    """
    import torch

    return torch.distributed.new_group(backend="gloo", timeout=_LONGEST_ROLLOUTS)


def job_name(run: LeRobotRun | LightningRun | OtherRun) -> str:
    """Name of what is trained, for folders and lists."""
    model = run.model
    if isinstance(model, PolicyModel):
        return model.policy_type
    return model.class_path.rpartition(".")[2].lower() if isinstance(model, ClassPath) else model.kind


def _own_job() -> dict[str, Any]:
    job = own_job()
    return {"job": None if job is None else JobRecord(id=job, log=own_log())}


def resumable(directory: RunDirectory, steps: int | None, *, can_end: bool = False) -> tuple[Checkpoint, list[str]]:
    """The newest complete checkpoint of a run, and a line for each newer one that is skipped, and a damaged manifest.

    Args:
        directory: The run.
        steps: Those that it is to have; None: not known before it ends.
        can_end: Whether its trainer closes a run that was killed between its last checkpoint and its end.

    Raises:
        UserError: The run has no complete checkpoint, or no steps left.
    """
    checkpoints = directory.checkpoints()
    newest = directory.latest()
    if newest is None:
        broken = "; ".join(f"{c.path.name}: {c.problem}" for c in checkpoints)
        raise UserError(
            "this run has no complete checkpoint to resume from" + (f" ({broken})" if broken else ""),
            where=str(directory.path / "checkpoints"),
            fix="start it again with the same settings",
        )
    unended = can_end and steps == newest.step and directory.manifest.status != "finished"
    if steps is not None and steps <= newest.step and not unended:
        raise UserError(
            f"the run is complete: it has {newest.step} of {steps} steps",
            where=str(directory.path),
            fix=f"train longer: hlrp train --resume {shlex.quote(str(directory.path))} --steps {newest.step * 2}",
        )
    skipped = [f"checkpoint {c.path.name} is skipped: {c.problem}" for c in checkpoints if c.step > newest.step]
    if directory.damage is not None:
        skipped.append(
            f"{MANIFEST} cannot be read ({directory.damage}): it is kept as {MANIFEST}.damaged, and whether the data "
            "are still those that the run began with is not known"
        )
    return newest, skipped


def with_length[S: TrainerSection](directory: RunDirectory, section: S, steps: int | None) -> tuple[S, int | None]:
    """The `trainer` section of a run that goes on, and the steps that the run is to have; None: not known yet.

    Args:
        directory: The run.
        section: As its configuration has it.
        steps: Its new length; None: the one that it had last, which may be longer than at its start.
    """
    if section.max_epochs is None:
        steps = steps or directory.manifest.steps or section.steps
    if steps is None:
        return section, directory.manifest.steps
    return section.model_copy(update={"steps": steps, "max_epochs": None}), steps


def default_log_freq(steps: int) -> int:
    """About fifty rows of metrics for a short run, LeRobot's own 200 steps for a long one."""
    return max(1, min(200, steps // 50))


def default_save_freq(steps: int) -> int:
    """Five checkpoints, 100 to 20,000 steps apart; the last step is one more."""
    return max(100, min(20_000, steps // 5))
