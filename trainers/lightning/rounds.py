"""When a run rolls out what it has learnt, and what the training makes of it: rows, and callbacks that monitor them."""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from trainers.lifecycle import RunLifecycle, patient_group
from trainers.lightning.monitors import SUCCESS, look_at_rollouts
from trainers.lightning.recording import Recorder

if TYPE_CHECKING:
    from trainers.lightning.rollouts import Rollouts


class Rounds:
    """The rollouts of a run, a round for each step that is due: one process makes them, and the others wait.

    Args:
        rollouts: What is rolled out, and how often.
        trainer: Lightning's, not yet used.
        lifecycle: The run.
        recorder: Gets what the rollouts find.
    """

    def __init__(self, rollouts: "Rollouts", trainer: Trainer, lifecycle: RunLifecycle, recorder: Recorder) -> None:
        self._rollouts = rollouts
        self._trainer = trainer
        self._lifecycle = lifecycle
        self._recorder = recorder
        self._patient: Any = None
        self._total = 1
        self._last = -1

    def begin(self, total: int) -> None:
        """Training is about to start; a run that goes on first does what a kill may have kept it from.

        Its checkpoint was saved before the rollouts: they are made now if there are none, or callbacks look once more.

        Args:
            total: Steps that the run is to have.
        """
        trainer, directory = self._trainer, self._lifecycle.directory
        self._total = total
        if trainer.world_size > 1:
            self._patient = patient_group()
        if trainer.global_step == 0:
            return
        rows = directory.metrics() if directory is not None else []
        known = any(row.get("step") == trainer.global_step and SUCCESS in row for row in rows)
        if trainer.strategy.broadcast(known):
            self._last = trainer.global_step
            look_at_rollouts(trainer)
        elif self.due(trainer.global_step):
            self.roll_out()

    def due(self, step: int) -> bool:
        """Whether a step is rolled out; the last one always is."""
        return step % self._rollouts.section.eval_freq == 0 or step == self._total

    def roll_out(self) -> None:
        """Look at the checkpoint that was just saved; every process has to call it."""
        self._last = self._trainer.global_step
        directory = self._lifecycle.directory
        latest = directory.latest() if directory is not None else None
        scores = self._rollouts(latest.path) if latest is not None else {}
        if self._patient is not None:
            torch.distributed.barrier(group=self._patient)
        # Callbacks that monitor them decide alike in all processes.
        if scores := self._trainer.strategy.broadcast(scores):
            self._recorder.scored(scores)
            look_at_rollouts(self._trainer)

    def end(self) -> None:
        """Training has ended by itself, maybe at a step that was not due."""
        if self._last < self._trainer.global_step:
            self.roll_out()
