"""One `fit` of Lightning with a run directory around it: steps, checkpoints, stopping, outcome."""

import logging
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from hlrp.compiled import compile_blocks
from hlrp.config import LightningTrainerSection
from hlrp.errors import HlrpError, Interrupted, UserError, WorkError
from hlrp.finite import NonFiniteError
from hlrp.means import last_step
from hlrp.processes import StoppedBySignal, StopRequests
from hlrp.runs.directory import CONFIG
from hlrp.sharded import whole
from trainers.base import RunResult
from trainers.failures import explain_failure
from trainers.lifecycle import (
    STEPS_BETWEEN_QUESTIONS,
    RunLifecycle,
    default_save_freq,
)
from trainers.lightning.checkpoints import save_checkpoint
from trainers.lightning.companions import Cause, Companions, leave_words
from trainers.lightning.layers import check_layers, recompute_layers
from trainers.lightning.log import RunLog
from trainers.lightning.loops import StepTimes, before_epoch_end, callbacks_of, ends_early, make_exact
from trainers.lightning.options import log_freq_of, refuse_averages
from trainers.lightning.recording import Recorder
from trainers.lightning.rounds import Rounds

if TYPE_CHECKING:
    from trainers.lightning.rollouts import Rollouts


class _Watch(Callback):
    """Lightning's hooks that the session needs."""

    def __init__(self, session: "LightningSession") -> None:
        self._session = session

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._session.prepare(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._session.begin(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._session.measure_gradient(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Where a module steps its optimizers itself, Lightning leaves its loss as it is.
        parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        self._session.recorder.batch(outputs, batch, parts)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._session.recorder.offer_loss()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._session.recorder.offer_loss()  # callbacks that monitor something come after all others

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._session.end()

    @property
    def state_key(self) -> str:
        return "hlrp"

    def state_dict(self) -> dict[str, Any]:
        return self._session.recorder.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._session.recorder.load(state_dict)


class LightningSession:
    """Runs a trainer and keeps its run directory.

    Args:
        trainer: Lightning's trainer, not yet used.
        lifecycle: The run; in all processes but the first without a folder.
        section: The run's `trainer` section: how often to log and save, what to keep, the seed.
        resume_from: Checkpoint folder to continue.
        rollouts: Of a policy, while it is trained; None: none.
    """

    def __init__(
        self,
        trainer: Trainer,
        lifecycle: RunLifecycle,
        section: LightningTrainerSection,
        *,
        resume_from: Path | None = None,
        rollouts: "Rollouts | None" = None,
    ) -> None:
        self._trainer = trainer
        self._lifecycle = lifecycle
        self._section = section
        self._resume_from = resume_from
        self.recorder = Recorder(lifecycle, trainer, section.max_nonfinite_steps)
        self._rounds = Rounds(rollouts, trainer, lifecycle, self.recorder) if rollouts is not None else None
        self._requests = StopRequests()
        self._module: LightningModule | None = None
        self._total = self._log_freq = self._save_freq = 1
        self._seen = self._saved = -1
        self._stepped = False
        self._companions = Companions.installed(trainer, self._lost)
        make_exact(trainer, self.after_step, section.eval_steps)
        callbacks_of(trainer).append(_Watch(self))

    def run(self, module: LightningModule, datamodule: Any, log: RunLog, begin: Callable[[], None] | None) -> RunResult:
        """Fit, and close the run directory whatever happens.

        Args:
            module: What is trained.
            datamodule: Its data.
            log: Which is about to get its file.
            begin: Makes the run directory, in the first process.

        Raises:
            UserError: Refused before the first step; a fresh run's folder is removed again.
            WorkError: Failed; the manifest says why.
            Interrupted: Stopped by a signal; the checkpoint is saved.
        """
        self._module = module
        failure: BaseException | None = None
        with self._requests:
            try:
                if begin is not None:
                    begin()
                if self._lifecycle.directory is not None:
                    log.write_to(self._lifecycle.directory.path)
                log.silence()
                state = self._resume_from / "training_state" if self._resume_from else None
                self._trainer.fit(module, ckpt_path=state, **_data(datamodule))
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                failure = error
                if not isinstance(error, HlrpError | StoppedBySignal):
                    logging.getLogger("hlrp.train").error("%s", traceback.format_exc())
            finally:
                self.recorder.end()
        return self._finish(failure)

    def prepare(self, module: LightningModule) -> None:
        """The module is made, and on its device: its layers are computed again or compiled, as asked."""
        refuse_averages(map(type, callbacks_of(self._trainer)), f"{type(module).__name__}.configure_callbacks")
        check_layers(module, self._section)
        if self._section.activation_checkpointing:
            recompute_layers(module)
        if self._section.compile and not compile_blocks(module):
            raise UserError(
                f"{type(module).__name__} has no modules that could be compiled",
                where="trainer.compile",
                fix="leave it out",
            )

    def begin(self, trainer: Trainer) -> None:
        """Training is about to start: its length is known, and from now on there is something to save."""
        self._total = last_step(trainer)
        self._log_freq = log_freq_of(self._section)
        self._save_freq = self._section.save_freq or default_save_freq(self._total)
        self._seen = self._saved = trainer.global_step
        if trainer.global_rank > 0 and self._resume_from is None:
            # Weights are made from one seed everywhere; noise must differ, or the processes repeat each other.
            torch.manual_seed(self._section.seed + trainer.global_rank)
        if self._lifecycle.directory is not None:
            self._lifecycle.directory.update(steps=self._total, processes=trainer.world_size)
        self.recorder.begin(self._total)
        self._requests.install()
        self._requests.training = True
        if self._rounds is not None:
            self._rounds.begin(self._total)

    def measure_gradient(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the gradient's norm before clipping, for steps that get a row."""
        if self._is_due(trainer.global_step + 1, self._log_freq):
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            self.recorder.grad_norm = whole(torch.nn.utils.get_total_norm(gradients)) if gradients else None

    def _is_due(self, step: int, interval: int) -> bool:
        return step % interval == 0 or step == self._total

    def after_step(self, times: StepTimes) -> None:
        """Look at a completed batch: rows, checkpoints, requests to stop."""
        trainer, recorder = self._trainer, self.recorder
        recorder.times(times)
        step = trainer.global_step
        if step == self._seen:
            return  # gradients are still being accumulated
        self._seen, self._stepped = step, True
        recorder.step(step)
        # A callback or a limit of time may end the training here.
        last = ends_early(trainer)
        if self._is_due(step, self._log_freq) or last:
            recorder.write_row()
        stop = self._told_to_stop(step)
        rounds = self._rounds if self._rounds is not None and self._rounds.due(step) else None
        if self._is_due(step, self._save_freq) or stop or rounds or last:
            self.save()
        if stop:
            raise StoppedBySignal
        if rounds is not None:
            rounds.roll_out()

    def end(self) -> None:
        """Training has ended by itself; at the end of an epoch a callback may have said so only after the last step."""
        with before_epoch_end(self._trainer):
            if self._seen > self.recorder.last_step:
                self.recorder.write_row()
            self.save()
        self.recorder.rest()
        if self._rounds is not None:
            self._rounds.end()

    def save(self) -> None:
        """Save a checkpoint of the step that is complete, unless there is one."""
        if self._module is None or self._saved == self._trainer.global_step:
            return
        self._lifecycle.flush()
        directory = self._lifecycle.directory
        folder = directory.path if directory is not None else Path(self._trainer.default_root_dir)
        save_checkpoint(self._trainer, self._module, folder / "checkpoints", keep_last=self._section.keep_last)
        self._saved = self._trainer.global_step

    def _told_to_stop(self, step: int) -> bool:
        told = self._requests.number is not None
        if self._trainer.world_size == 1:
            return told
        on_cpu = self._trainer.strategy.root_device.type == "cpu"
        if not on_cpu and step % STEPS_BETWEEN_QUESTIONS:
            return False
        # All stop together, or those that go on would wait for the others for ever.
        return bool(self._trainer.strategy.reduce_boolean_decision(told, all=False))

    def _finish(self, failure: BaseException | None) -> RunResult:
        lifecycle = self._lifecycle
        if lifecycle.directory is None:
            return self._finish_other(failure)
        if failure is None:
            self._tell_early_end()
            return lifecycle.finish()
        if isinstance(failure, Interrupted):
            if not lifecycle.discard_if_fresh():
                lifecycle.end("interrupted", reason=str(failure))
            raise failure
        if isinstance(failure, StoppedBySignal | KeyboardInterrupt | SystemExit):
            # Where another process got the signal first, it is the one that ends jobs.
            usual = signal.SIGINT if isinstance(failure, KeyboardInterrupt) else signal.SIGTERM
            raise lifecycle.interrupted(self._requests.number or usual) from None
        if self._requests.number is not None and not isinstance(failure, HlrpError):
            # What was told to stop everything may have ended something that this step needed: the log says what.
            raise lifecycle.interrupted(self._requests.number) from failure
        if isinstance(failure, UserError) and not self._requests.training and lifecycle.discard_if_fresh():
            raise failure
        cause = self._companions.cause if self._companions is not None else None
        if cause is not None and not isinstance(failure, HlrpError):
            raise self._failed_elsewhere(cause) from failure
        failed = lifecycle.failed(_reason(failure), left_numbers=isinstance(failure, NonFiniteError))
        if isinstance(failure, UserError):
            raise failure
        raise failed from failure

    def _tell_early_end(self) -> None:
        """Say what ended a training before its last step.

        Raises:
            UserError: It had ended that training before, and now let it make no step.
        """
        lifecycle, directory, step = self._lifecycle, self._lifecycle.directory, self._trainer.global_step
        assert directory is not None, "the first process finishes the run"
        if not self._trainer.should_stop or step >= (total := directory.manifest.steps or 0):
            return
        reason, way_on = _what_ended(self._trainer)
        if not self._stepped and lifecycle.put_back():
            raise UserError(
                f"the run was ended at step {step} by {reason}, which lets it make no further step",
                where=str(directory.path / CONFIG),
                fix=way_on,
            )
        lifecycle.warn(f"the training ended at step {step} of {total}, by {reason}; to train on, {way_on}")

    def _failed_elsewhere(self, cause: Cause) -> WorkError:
        logging.getLogger("hlrp.train").error("%s", cause.trace or cause.reason)
        return self._lifecycle.failed(cause.reason)

    def _lost(self, cause: Cause) -> None:
        sys.stderr.write(f"error: {self._failed_elsewhere(cause)}\n")

    def _finish_other(self, failure: BaseException | None) -> RunResult:
        if isinstance(failure, Exception) and not isinstance(failure, StoppedBySignal):
            trace = "".join(traceback.format_exception(failure))
            if leave_words(self._trainer.global_rank, _reason(failure), trace):
                raise SystemExit(failure.exit_code if isinstance(failure, HlrpError) else 1)
        if isinstance(failure, StoppedBySignal | NonFiniteError):
            raise SystemExit(0)  # the first process says it all and ends with its code
        if failure is not None:
            raise failure
        return RunResult(Path(self._trainer.default_root_dir), None, {}, self._lifecycle.warnings)


def _what_ended(trainer: Trainer) -> tuple[str, str]:
    """Who asked the training to stop, and what to do for one that goes on."""
    callbacks = callbacks_of(trainer)
    for callback in callbacks:
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None and left <= 0:
            return (
                "trainer_args.max_time",
                f"raise trainer.trainer_args.max_time in {CONFIG}: it is that of the whole run",
            )
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            reason = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            return f"EarlyStopping ({reason})", f"take EarlyStopping out of trainer.callbacks in {CONFIG}"
    return "a callback", f"change trainer.callbacks in {CONFIG}"


def _reason(failure: BaseException) -> str:
    message = str(failure)
    return message if isinstance(failure, HlrpError) else explain_failure(type(failure).__name__, message)


def _data(datamodule: Any) -> dict[str, Any]:
    from lightning.pytorch import LightningDataModule

    if datamodule is None:
        return {}
    key = "datamodule" if isinstance(datamodule, LightningDataModule) else "train_dataloaders"
    return {key: datamodule}
