"""Lightning's own loop on the pretended device."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from planted_reads import planted_read
from pretended_cuda import CUDA, PretendedCuda

from trainers.lightning.state import SafeCheckpointIO

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class _NoDriver(CPUAccelerator):
    """An accelerator that has nothing to set up; where tensors go is the strategy's device."""

    def setup_device(self, device: Any) -> None:
        """Nothing."""


class _FromTheSecondStep(Callback):
    """Forbids reading values on the host: the first step may do what is done once, validation writes figures."""

    def __init__(self, cuda: PretendedCuda, steps: int, plant: Callable[[], None], save: Path | None) -> None:
        self._cuda, self._clean, self._plant, self._save, self.steps = cuda, steps, plant, save, 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._cuda.strict, self.steps = self.steps >= 1, self.steps + 1
        if self.steps > self._clean:
            self._plant()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.steps == self._clean and self._save is not None:
            self._cuda.strict = False
            trainer.save_checkpoint(self._save)

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self._cuda.strict = False  # what Lightning clears up must not hide the error

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._cuda.strict = False


def train(
    cuda: PretendedCuda,
    module: LightningModule,
    data: Any,
    *,
    steps: int = 2,
    in_optimizer: bool = False,
    save: Path | None = None,
    resume: Path | None = None,
    **options: Any,
) -> None:
    """Train on the pretended device; from the second step on a value read on the host is an error.

    One step more reads a value on purpose, and has to fail.

    Args:
        cuda: The device.
        module: What is trained.
        data: Its data.
        steps: Steps that have to pass, at least 2.
        in_optimizer: Where the last step's value is read: behind the optimizer, or in the first module that is called.
        save: Where to save a checkpoint after them.
        resume: One to go on from.
        **options: Of Lightning's Trainer.

    Raises:
        HostReadError: Another step reads one.
        WrongDeviceError: A step mixes devices.
    """
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message="for .*: copying from a non-meta parameter")  # there are no values
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with planted_read(in_optimizer=in_optimizer, now=False) as plant:
        watch = _FromTheSecondStep(cuda, steps, plant, save)
        trainer = Trainer(
            max_steps=20,
            strategy=SingleDeviceStrategy(CUDA, accelerator=_NoDriver()),
            callbacks=[watch],
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
            plugins=[SafeCheckpointIO()],
            **quiet,
            **options,
        )
        cuda.strict = False
        try:
            trainer.fit(module, data, ckpt_path=resume)
        finally:
            cuda.strict = True
    assert watch.steps == steps + 1 > 2
