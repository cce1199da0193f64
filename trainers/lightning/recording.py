"""What a Lightning run reports of itself: rows of `metrics.jsonl`, warnings, progress."""

import logging
import math
import time
from collections.abc import Mapping, Sized
from typing import Any

import psutil
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import BatchSampler

from hlrp.files import json_text
from hlrp.finite import FiniteLoss
from trainers.lifecycle import RunLifecycle
from trainers.lightning.figures import gather_figures
from trainers.lightning.loops import StepTimes, callbacks_of
from trainers.progress import TrainingProgress

_LOG = logging.getLogger("hlrp.train")


class RunLogger(Logger):
    """The run's metrics as one of Lightning's loggers: gets what callbacks hand to all of them."""

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
        """Keep what a callback measured for the next row; of a validation it is a row of its own."""
        self._recorder.told({name: float(value) for name, value in metrics.items() if name != "epoch"})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's configuration is in its folder."""


class Recorder:
    """Collects what happens between two rows and writes them; loggers and callbacks get them too.

    Rows are the same in all processes, up to times and memory, and the first process alone writes them.

    Args:
        lifecycle: The run; its folder is known in the first process alone.
        trainer: Lightning's, whose figures are taken from now on.
        most_nonfinite: Steps in a row whose loss may be no number.
    """

    def __init__(self, lifecycle: RunLifecycle, trainer: Trainer, most_nonfinite: int) -> None:
        self._lifecycle = lifecycle
        self._trainer = trainer
        self._finite = FiniteLoss(most_nonfinite)
        self.grad_norm: torch.Tensor | None = None
        self._progress: TrainingProgress | None = None
        self.last_step = 0
        """Of the newest row."""
        self._figures = gather_figures(trainer, self._logged)
        trainer.loggers = [*trainer.loggers, RunLogger(self)]
        self._pending: dict[str, Any] = {}
        self._told: set[str] = set()
        """Pending figures that the loggers have."""
        self._losses: list[torch.Tensor] = []
        self._total: int | None = None
        """Samples up to the newest row, over all processes; None: not known yet."""
        self._samples = 0
        self._data_s = self._update_s = 0.0

    def begin(self, total: int) -> None:
        """Show the progress; the first step is next, and callbacks know the rows that were written before."""
        trainer, directory = self._trainer, self._lifecycle.directory
        self.last_step = trainer.global_step
        known: dict[str, Any] = {}
        for row in directory.metrics() if directory is not None and trainer.global_step else ():
            known |= row
        known = trainer.strategy.broadcast(known)
        self._publish({name: value for name, value in known.items() if isinstance(value, int | float)})
        if self._total is None:  # fresh, or of a release that did not keep it
            self._total = known.get("samples", 0)
        if directory is not None:
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

    def state(self) -> dict[str, Any]:
        """What a run that goes on has to know of the steps since the newest row; every process has to call it."""
        self._pending |= self._figures.take()
        _, samples = self._over_processes(None)
        figures = {name: float(value) for name, value in self._pending.items()}
        return {"samples": (self._total or 0) + samples, "figures": figures, "told": sorted(self._told)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._total, self._pending, self._told = state["samples"], dict(state["figures"]), set(state["told"])

    def _logged(self, figures: Mapping[str, Any]) -> None:
        """Take figures of the module: for the next row while training, as a row while validating."""
        if self._trainer.validating:
            self.scored({name: float(value) for name, value in figures.items()})
        else:
            self._pending |= figures

    def told(self, figures: Mapping[str, float]) -> None:
        """Take figures that all loggers have already."""
        if self._trainer.validating:
            self.scored(figures, handed=True)
        else:
            self._pending |= figures
            self._told |= figures.keys()

    def scored(self, scores: Mapping[str, float], *, handed: bool = False) -> None:
        """A row, and a line, of what the weights were found to be worth; in all processes alike.

        Args:
            scores: Name to number.
            handed: Whether the loggers have them.
        """
        step = self._trainer.global_step
        self._lifecycle.write_row({"step": step, **scores})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self._lifecycle.console.print(f"step {step}  {shown}")
        self._publish(scores)
        if not handed:
            self._hand(scores)

    def offer_loss(self) -> None:
        """Before callbacks look: the loss since the newest row, for one that looks before there is another."""
        watched = any(getattr(callback, "monitor", None) == "loss" for callback in callbacks_of(self._trainer))
        if watched and self._losses and not self._figures.has("loss"):
            loss, _ = self._over_processes(torch.stack(self._losses).mean())
            self._publish({"loss": loss})

    def rest(self) -> None:
        """After the last row: what the end of the last epoch has brought is a row of its own."""
        figures = {name: float(value) for name, value in self._pending.items() if name not in self._told}
        if figures:
            self._lifecycle.write_row({"step": self._trainer.global_step, **figures})
            self._hand(figures)

    def _publish(self, figures: Mapping[str, Any]) -> None:
        """Let callbacks monitor what is in the rows; `step` is Lightning's own, of the step that they look at."""
        found = {name: torch.tensor(value) for name, value in figures.items() if name != "step"}
        self._trainer.callback_metrics.update(found)

    def _hand(self, row: Mapping[str, Any]) -> None:
        """Give the loggers a row, of the step that is complete."""
        figures = {name: value for name, value in row.items() if name != "step" and name not in self._told}
        for logger in self._trainer.loggers if self._trainer.is_global_zero else ():
            if not isinstance(logger, RunLogger):
                logger.log_metrics(figures, self._trainer.global_step)
                logger.save()

    def _over_processes(self, loss: torch.Tensor | None) -> tuple[float, int]:
        """The mean loss, and the samples since the newest row, over all processes together."""
        strategy, world = self._trainer.strategy, self._trainer.world_size
        if world == 1:
            return math.nan if loss is None else float(loss), self._samples
        count = torch.tensor(float(self._samples), device=strategy.root_device)
        both = torch.stack([count if loss is None else loss.to(count), count])
        mean_loss, samples = strategy.reduce(both, reduce_op="mean").tolist()
        return mean_loss, round(samples * world)

    def write_row(self) -> None:
        """Write the row of the steps since the last one; every process has to call it.

        Raises:
            NonFiniteError: The loss has not been a number for too many steps, in all processes alike.
        """
        began = time.perf_counter()
        trainer, losses = self._trainer, self._losses
        step = trainer.global_step
        steps = max(1, step - self.last_step)
        loss, samples = self._over_processes(torch.stack(losses).mean() if losses else None)
        self._total = (self._total or 0) + samples
        row: dict[str, Any] = {"step": step, "loss": loss} if losses else {"step": step}
        if self.grad_norm is not None:
            row["grad_norm"] = float(self.grad_norm)
        if trainer.optimizers:
            row["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        # Reading the loss waits for the device: these seconds are work too.
        busy = self._update_s + time.perf_counter() - began
        row |= {
            "update_s": busy / steps,
            "data_s": self._data_s / steps,
            "data_wait": self._data_s / max(busy + self._data_s, 1e-9),
            "samples_per_s": samples / max(busy + self._data_s, 1e-9),
            "samples": self._total,
            "epochs": trainer.current_epoch + _share_of_epoch(trainer),
            "rss_mb": psutil.Process().memory_info().rss / 2**20,
        }
        row |= {name: float(value) for name, value in {**self._pending, **self._figures.take()}.items()}
        self._publish(row)
        self._hand(row)
        if self._lifecycle.directory is not None:
            self._show(row, max(1, len(losses)))
        self.last_step = step
        self._losses, self._samples = [], 0
        self._pending, self._told = {}, set()
        self._data_s = self._update_s = 0.0
        if losses:
            self._watch(loss, losses, steps)

    def _watch(self, loss: float, losses: list[torch.Tensor], steps: int) -> None:
        """Look at the steps of a row one by one, if their mean says that there is something to see."""
        trainer = self._trainer
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


def _share_of_epoch(trainer: Trainer) -> float:
    """How much of the running epoch is done, by samples where their number is known: the last batch may be short."""
    done, batches, world = trainer.fit_loop.batch_idx + 1, max(trainer.num_training_batches, 1), trainer.world_size
    order: Any = getattr(getattr(trainer.train_dataloader, "loader", None), "batch_sampler", None)
    size, samples = getattr(order, "global_batch", None), getattr(order, "samples", None)
    if isinstance(order, BatchSampler) and isinstance(order.sampler, Sized):
        size, samples = order.batch_size * world, len(order.sampler) * world
    if size is None or samples is None:
        return done / batches
    samples = min(samples, batches * size)
    return min(done * size, samples) / samples


def batch_length(batch: Any) -> int:
    """Samples in a batch: the length of the first tensor found in it; 0 if there is none."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.dim() else 1
    items: Any = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((length for item in items if (length := batch_length(item))), 0)
