"""What a Lightning run reports of itself: rows of `metrics.jsonl`, warnings, progress."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import psutil
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import Logger

from hlrp.files import json_text
from hlrp.finite import FiniteLoss
from trainers.lifecycle import RunLifecycle
from trainers.lightning.loops import StepTimes
from trainers.progress import TrainingProgress

_LOG = logging.getLogger("hlrp.train")


class RunLogger(Logger):
    """Lightning's side of the run's metrics: what modules pass to `self.log`."""

    def __init__(self, recorder: "Recorder") -> None:
        super().__init__()
        self._recorder = recorder

    @property
    def name(self) -> str:
        """As Lightning asks for it."""
        return "hlrp"

    @property
    def version(self) -> str:
        """As Lightning asks for it."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep what a training step logged for its row; what a validation logged is a row of its own."""
        self._recorder.logged({name: float(value) for name, value in metrics.items() if name != "epoch"})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's configuration is in its folder."""


class Recorder:
    """Collects what happens between two rows and writes them, in the first process alone.

    Args:
        lifecycle: The run; its folder is known in the first process alone.
        most_nonfinite: Steps in a row whose loss may be no number.
    """

    def __init__(self, lifecycle: RunLifecycle, most_nonfinite: int) -> None:
        self._lifecycle = lifecycle
        self._finite = FiniteLoss(most_nonfinite)
        self.grad_norm: torch.Tensor | None = None
        self._progress: TrainingProgress | None = None
        self._trainer: Trainer | None = None
        self.last_step = 0
        """Of the newest row."""
        self._logged: dict[str, float] = {}
        self._losses: list[torch.Tensor] = []
        self._samples = 0
        self._data_s = self._update_s = 0.0

    def begin(self, trainer: Trainer, total: int) -> None:
        """Show the progress; the first step is next."""
        self._trainer, self.last_step = trainer, trainer.global_step
        if self._lifecycle.directory is not None:
            self._progress = TrainingProgress(self._lifecycle.console, total, trainer.global_step)
            self._progress.__enter__()

    def end(self) -> None:
        """Close what `begin` opened; safe to call at any time."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
        self._progress = None

    def batch(self, outputs: Any, batch: Any, parts: int) -> None:
        """Count one batch; the loss stays on its device, where reading it would stop the pipeline.

        Args:
            outputs: What Lightning kept of the step.
            batch: The batch.
            parts: Of how many batches gradients are accumulated: by that Lightning has divided the loss.
        """
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach().float().mean() * parts)
        self._samples += batch_length(batch)

    def times(self, times: StepTimes) -> None:
        """Count the seconds of one batch."""
        self._data_s += times.data_s
        self._update_s += times.update_s

    def step(self, step: int) -> None:
        """Move the progress."""
        if self._progress is not None:
            self._progress.step(step)

    def logged(self, metrics: dict[str, float]) -> None:
        """Take metrics of the module: for the next row while training, as a row while validating."""
        if self._trainer is not None and self._trainer.validating:
            self.scored(self._trainer.global_step, metrics)
        else:
            self._logged.update(metrics)

    def scored(self, step: int, scores: Mapping[str, float]) -> None:
        """A row, and a line, of what the weights of a step were found to be worth."""
        self._lifecycle.write_row({"step": step, **scores})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self._lifecycle.console.print(f"step {step}  {shown}")

    def write_row(self, trainer: Trainer) -> None:
        """Write the row of the steps since the last one; every process has to call it.

        Raises:
            NonFiniteError: The loss has not been a number for too many steps, in all processes alike.
        """
        began = time.perf_counter()
        step, losses = trainer.global_step, self._losses
        steps, batches = max(1, step - self.last_step), max(1, len(losses))
        loss = float(trainer.strategy.reduce(torch.stack(losses).mean(), reduce_op="mean")) if losses else None
        if self._lifecycle.directory is not None:
            row: dict[str, Any] = {"step": step} if loss is None else {"step": step, "loss": loss}
            if self.grad_norm is not None:
                row["grad_norm"] = float(self.grad_norm)
            if trainer.optimizers:
                row["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
            # Reading the loss waits for the device: these seconds are work too.
            busy = self._update_s + time.perf_counter() - began
            samples = self._samples * trainer.world_size
            row |= {
                "update_s": busy / steps,
                "data_s": self._data_s / steps,
                "data_wait": self._data_s / max(busy + self._data_s, 1e-9),
                "samples_per_s": samples / max(busy + self._data_s, 1e-9),
                "samples": round(step * samples / steps),
                "epochs": trainer.current_epoch
                + (trainer.fit_loop.batch_idx + 1) / max(trainer.num_training_batches, 1),
                "rss_mb": psutil.Process().memory_info().rss / 2**20,
            }
            self._show({**row, **self._logged}, batches)
        self.last_step = step
        self._losses = []
        self._samples = 0
        self._logged = {}
        self._data_s = self._update_s = 0.0
        if loss is not None:
            self._watch(trainer, loss, losses, steps)

    def _watch(self, trainer: Trainer, loss: float, losses: list[torch.Tensor], steps: int) -> None:
        """Look at the steps of a row one by one, if their mean says that there is something to see."""
        step = trainer.global_step
        if math.isfinite(loss):
            self._finite.see(step, True)
            return
        finite = trainer.strategy.reduce(torch.stack(losses).isfinite().float(), reduce_op="mean").tolist()
        each = max(1, len(finite) // steps)  # gradients may be accumulated
        for number in range(min(steps, len(finite) // each)):
            share = finite[number * each : (number + 1) * each]
            self._finite.see(step - steps + number + 1, min(share) == 1)

    def _show(self, row: dict[str, Any], batches: int) -> None:
        self._lifecycle.training_row(row)
        _LOG.info("step %d (%d batches): %s", row["step"], batches, json_text(row))
        if self._progress is not None:
            self._progress.row(row)


def batch_length(batch: Any) -> int:
    """Samples in a batch: the length of the first tensor found in it; 0 if there is none."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.dim() else 1
    items: Any = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((length for item in items if (length := batch_length(item))), 0)
