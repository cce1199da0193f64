"""Figures of training steps, of which rows show means."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


def last_step(trainer: Trainer) -> int:
    """The step that a training ends with, if nothing ends it before."""
    return trainer.max_steps if trainer.max_steps > 0 else int(trainer.estimated_stepping_batches)


class RowMeans:
    """Means since the last row, over batches and processes. They stay on the device: only a row waits for them."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Any, int]] = {}

    def add(self, figures: Mapping[str, Tensor | float]) -> None:
        """Count the figures of one batch; of one that has not all of them those that it has.

        Args:
            figures: Name to scalar.
        """
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + (value.detach() if isinstance(value, Tensor) else value), count + 1

    def log(self, module: LightningModule) -> None:
        """Log the means if a row is due at the step that is complete; every process has to call it."""
        trainer, step = module.trainer, module.global_step
        interval: int = getattr(trainer, "log_every_n_steps")  # noqa: B009 - set by one of the trainer's parts
        if step % max(1, interval) and step != last_step(trainer):
            return
        means = {name: total / count for name, (total, count) in self._sums.items()}
        single = {name: mean.float() if isinstance(mean, Tensor) else mean for name, mean in means.items()}
        module.log_dict(single, batch_size=1, sync_dist=True)
        self._sums = {}
