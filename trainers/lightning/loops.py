"""Exact resume in the middle of an epoch: Lightning's loops, saved after a step is complete, with order and randomness.

Lightning saves inside a step, before the module's own `on_train_batch_end` and before validation, keeps no random
state, and starts a shuffled loader anew. All use of Lightning's private loops is in this module.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loops import _AutomaticOptimization, _EvaluationLoop, _FitLoop, _TrainingEpochLoop
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from hlrp.data_workers import keep_reading
from trainers.lightning.resumable_loader import ResumableLoader, rng_states, set_rng_states


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The trainer's own list, which may be added to."""
    callbacks: list[Callback] = getattr(trainer, "callbacks")  # noqa: B009 - set by one of the trainer's parts
    return callbacks


class StepTimes:
    """Seconds of the last step: waiting for data, and all else without validation and checkpoints."""

    data_s = 0.0
    update_s = 0.0


class _ValidationLoop(_EvaluationLoop):
    """Lightning's, with workers that a signal to the whole run does not end."""

    def setup_data(self) -> None:
        super().setup_data()
        loaders = self._combined_loader.flattened if self._combined_loader is not None else []
        for loader in loaders:
            if isinstance(loader, DataLoader):
                keep_reading(loader)


class _MeanGradients(_AutomaticOptimization):
    """Lightning's, whose gradients are means over the batches of a step also where an epoch ends before it is full.

    Lightning divides every loss by `accumulate_grad_batches`, and steps at the end of an epoch with what there is.
    """

    def _make_backward_fn(self, optimizer: Optimizer) -> Callable[[Tensor], None] | None:
        backward = super()._make_backward_fn(optimizer)
        wanted, epoch_loop = self.trainer.accumulate_grad_batches, self.trainer.fit_loop.epoch_loop
        batches = epoch_loop.batch_progress.current.ready % wanted
        if backward is None or not batches or epoch_loop._should_accumulate():
            return backward

        def backward_of_a_short_step(loss: Tensor) -> None:
            backward(loss)
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            with torch.no_grad():
                for gradient in gradients:
                    gradient.mul_(wanted / batches)

        return backward_of_a_short_step


class ExactEpochLoop(_TrainingEpochLoop):
    """Calls ``after_step`` when a step is complete, validation included, and keeps the random state.

    Args:
        trainer: Lightning's.
        after_step: Called after every batch.
        eval_steps: Optimizer steps between validations; 0: as the trainer says, which counts batches.
    """

    def __init__(self, trainer: Trainer, after_step: Callable[[StepTimes], None], eval_steps: int) -> None:
        super().__init__(trainer, min_steps=trainer.min_steps, max_steps=trainer.max_steps)
        self.automatic_optimization = _MeanGradients(trainer)
        self._eval_steps, self._step_before = eval_steps, 0
        self.val_loop = _ValidationLoop(
            trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False
        )
        self._after_step = after_step
        self._random: list[dict[str, Any]] | None = None
        self.times = StepTimes()
        self._fetch_began = 0.0

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Go on with the next step: the one that the checkpoint was taken at needs no finishing."""
        super().on_run_start(data_fetcher)
        self.restarting = False
        self.val_loop.reset_restart_stage()
        self.trainer.fit_loop._restarting = False
        if self._random is not None:
            rank, step = self.trainer.global_rank, self.trainer.global_step
            # Where nothing was saved for it, a generator must not draw what another one did, nor what it did itself.
            if rank >= len(self._random):
                torch.manual_seed(torch.initial_seed() + rank + step)
            else:
                set_rng_states(self._random[rank])
                if "cuda" not in self._random[rank]:
                    torch.cuda.manual_seed(torch.initial_seed() + rank + step)
            self._random = None

    def _on_before_fetch(self) -> None:
        super()._on_before_fetch()
        self._fetch_began = time.perf_counter()

    def _on_after_fetch(self) -> None:
        super()._on_after_fetch()
        self.times.data_s = time.perf_counter() - self._fetch_began

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Run one batch, timed."""
        began, self._step_before = time.perf_counter(), self.trainer.global_step
        super().advance(data_fetcher)
        self.times.update_s = max(0.0, time.perf_counter() - began - self.times.data_s)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        if not self._eval_steps or not self._should_check_val_epoch():
            return super()._should_check_val_fx(data_fetcher)
        # Not every step is of as many batches, and a module that steps its optimizers itself may make several at once.
        is_due = self.trainer.global_step // self._eval_steps > self._step_before // self._eval_steps
        return is_due or ends_early(self.trainer)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """End the step as Lightning does, then let the run look at it."""
        super().on_advance_end(data_fetcher)
        self._after_step(self.times)

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Lightning's state and the random state of every process."""
        states: list[Any] = [rng_states()]
        if self._random is not None:
            states = self._random  # no step has been made since it was loaded
        elif self.trainer.world_size > 1:
            states = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(states, rng_states())
        return {**super().on_save_checkpoint(), "random": states}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Take the state; the random generators are set when the first batch is about to be read."""
        super().on_load_checkpoint(state_dict)
        self._random = state_dict.get("random")


class ExactFitLoop(_FitLoop):
    """Iterates over loaders that can be continued in the middle of an epoch."""

    def __init__(self, trainer: Trainer, after_step: Callable[[StepTimes], None], eval_steps: int) -> None:
        super().__init__(trainer, min_epochs=trainer.min_epochs, max_epochs=trainer.max_epochs)
        self.epoch_loop = ExactEpochLoop(trainer, after_step, eval_steps)
        self._unended = False

    @property
    def skip(self) -> bool:
        """Also a run that has all its steps is begun and ended: it may have been killed before its last epoch's end."""
        if self.trainer.limit_train_batches == 0 or self.max_batches == 0:
            return True
        self._unended = self.done
        return False

    @property
    def done(self) -> bool:
        """As Lightning has it."""
        return bool(super().done) and not self._unended

    def on_iteration_done(self) -> None:
        """An epoch has ended."""
        self._unended = False
        super().on_iteration_done()

    def _loaders(self) -> list[ResumableLoader]:
        loaders = self._combined_loader.flattened if self._combined_loader is not None else []
        return [loader for loader in loaders if isinstance(loader, ResumableLoader)]

    def _load_combined_loader_states(self) -> None:
        # Called between the loaders' preparation (distributed samplers) and their first iterator.
        if self._combined_loader is None:
            return
        prepared = self._combined_loader.flattened
        # Lightning puts what it sees to be shuffled in order: a sampler of batches it does not see through.
        repeats = getattr(self.trainer, "overfit_batches") > 0  # noqa: B009 - set by one of the trainer's parts
        self._combined_loader.flattened = [
            loader if isinstance(loader, ResumableLoader) else ResumableLoader(loader, repeats=repeats)
            for loader in prepared
        ]
        states, self._combined_loader_states_to_load = self._combined_loader_states_to_load, []
        if states:
            self._combined_loader._load_state_dicts(states)

    def on_advance_start(self) -> None:
        """Tell the loaders which epoch it is."""
        self.setup_data()
        progress: Any = self.epoch_progress.current
        for loader in self._loaders():
            loader.start_epoch(progress.processed)
        super().on_advance_start()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Lightning's state and the position of every loader."""
        ahead = len(getattr(self._data_fetcher, "batches", ()))
        return {**super().on_save_checkpoint(), "combined_loader": [x.state_dict(ahead) for x in self._loaders()]}

    def teardown(self) -> None:
        """Also end the loaders' worker processes."""
        for loader in self._loaders():
            loader.close()
        super().teardown()


def make_exact(trainer: Trainer, after_step: Callable[[StepTimes], None], eval_steps: int = 0) -> None:
    """Give ``trainer`` loops that resume exactly, report every completed step and validate every ``eval_steps``."""
    trainer.fit_loop = ExactFitLoop(trainer, after_step, eval_steps)


@contextmanager
def before_epoch_end(trainer: Trainer) -> Iterator[None]:
    """The loops as they stood when the last step was complete, after training has ended.

    From a checkpoint of an epoch that has ended Lightning goes on with an empty epoch.
    """
    progress: Any = trainer.fit_loop.epoch_progress
    counts = (progress.current, progress.total) if progress.current.processed == progress.current.ready else ()
    for count in counts:
        count.processed, count.completed = count.processed - 1, count.completed - 1
    try:
        yield
    finally:
        for count in counts:
            count.processed, count.completed = count.processed + 1, count.completed + 1


def ends_early(trainer: Trainer) -> bool:
    """Whether training ends with this step though it is not the last one that was asked for."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early
