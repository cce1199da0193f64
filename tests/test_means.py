"""Figures of steps, of which rows show means."""

import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from hlrp.means import RowMeans

warnings.filterwarnings("ignore", module="lightning")


class Module(LightningModule):
    """Reports the number of every batch, and twice it for the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)
        self.means = RowMeans()
        self.logged: dict[int, dict[str, float]] = {}

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.net(batch).mean()
        self.means.add({"number": batch.mean(), **({"rare": 2.0 * (index + 1)} if index < 2 else {})})
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        self.means.log(self)

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        super().log_dict(dictionary, *args, **kwargs)
        self.logged[self.global_step] = {name: float(value) for name, value in dictionary.items()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("length", [{"max_steps": 6}, {"max_epochs": 1}], ids=["steps", "epochs"])
def test_means_are_over_the_batches_that_have_a_figure_and_the_last_step_has_some(length: dict[str, int]) -> None:
    module = Module()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    batches = DataLoader([torch.tensor([float(n)]) for n in range(1, 7)])  # type: ignore[arg-type]
    trainer = Trainer(accelerator="cpu", log_every_n_steps=4, **length, **quiet)
    trainer.fit(module, batches)
    assert module.logged == {4: {"number": 2.5, "rare": 3.0}, 6: {"number": 5.5}}
    assert float(trainer.callback_metrics["number"]) == 5.5
