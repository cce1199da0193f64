"""Lightning's own loop on the pretended device."""

import logging
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from pretended_cuda import CUDA, PretendedCuda

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class _NoDriver(CPUAccelerator):
    """An accelerator that has nothing to set up; where tensors go is the strategy's device."""

    def setup_device(self, device: Any) -> None:
        """Nothing."""


class _FromTheSecondStep(Callback):
    """Forbids reading values on the host: the first step may do what is done once, validation writes figures."""

    def __init__(self, cuda: PretendedCuda) -> None:
        self._cuda, self.steps = cuda, 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._cuda.strict, self.steps = batch_idx >= 1, self.steps + 1

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self._cuda.strict = False  # what Lightning clears up must not hide the error

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._cuda.strict = False


def train(cuda: PretendedCuda, module: LightningModule, data: Any, *, steps: int = 3, **options: Any) -> None:
    """Train on the pretended device; from the second step on a value read on the host is an error.

    Raises:
        HostReadError: A step reads one.
        WrongDeviceError: A step mixes devices.
    """
    warnings.filterwarnings("ignore", module="lightning")
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    watch = _FromTheSecondStep(cuda)
    trainer = Trainer(
        max_steps=steps,
        strategy=SingleDeviceStrategy(CUDA, accelerator=_NoDriver()),
        callbacks=[watch],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        limit_val_batches=options.pop("limit_val_batches", 0),
        **quiet,
        **options,
    )
    cuda.strict = False
    try:
        trainer.fit(module, data)
    finally:
        cuda.strict = True
    assert watch.steps >= steps > 1
