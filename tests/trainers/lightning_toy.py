"""A small real module and its data, with all that makes exact resume hard; also a program that trains it.

Shuffled order from the global generator, noise drawn while reading, dropout, a change of the weights in
`on_train_batch_end` (after which Lightning's own checkpoints would be too early) and a validation that draws numbers.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import trainers.lightning.imports  # noqa: F401 - before Lightning, as the command does: half of a program's start

# isort: split
from lightning.pytorch import LightningDataModule, LightningModule

sys.path.insert(0, str(Path(__file__).parents[1]))
from own_signals import deliver

from hlrp.config import load_config
from hlrp.data.sampler import ResumableSampler
from hlrp.runs import RunDirectory


class Points(Dataset):
    def __init__(self, count: int = 50, noise: bool = True) -> None:
        self.count, self.noise = count, noise

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = torch.randn(1) if self.noise else torch.zeros(1)
        return {"x": torch.tensor([index / 50, 1.0]), "noise": noise, "index": torch.tensor(index)}


class Data(LightningDataModule):
    """12 batches of 4 an epoch, by a plain shuffled loader or by this project's sampler."""

    def __init__(self, batch: int = 4, noise: bool = True, workers: int = 0, resumable: bool = False) -> None:
        super().__init__()
        self.batch, self.noise, self.workers, self.resumable = batch, noise, workers, resumable

    def train_dataloader(self) -> DataLoader:
        points = Points(noise=self.noise)
        if self.resumable:
            place = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
            sampler = ResumableSampler([len(points)], self.batch, seed=3, **place)
            return DataLoader(points, batch_sampler=sampler, num_workers=self.workers)
        return DataLoader(points, batch_size=self.batch, shuffle=True, drop_last=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Points(10), batch_size=5)


class Net(LightningModule):
    """Args: noise: whether anything is random; at: step at which the process `rank` is sent `number`, or 0: it fails.

    With `stuck` the others wait from then on where nothing can be raised.
    """

    def __init__(
        self, noise: bool = True, at: int = 0, number: int = signal.SIGTERM, rank: int = 0, stuck: bool = False
    ) -> None:
        super().__init__()
        self.noise, self.at, self.number, self.rank, self.stuck = noise, at, number, rank, stuck
        torch.manual_seed(0)  # a module made by hand is made before its trainer seeds anything
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3 if noise else 0.0), nn.Linear(8, 1))
        self.ids: list[int] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        self.ids += batch["index"].tolist()
        loss = (self.net(batch["x"]) - batch["x"][:, :1] + 0.1 * batch["noise"]).pow(2).mean()
        self.log("toy", loss)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        self.log("val_loss", (self.net(batch["x"]) - torch.randn(1)).pow(2).mean())

    def on_train_batch_end(self, *args: Any) -> None:
        if self.noise:
            with torch.no_grad():
                self.net[0].bias += 1e-3 * torch.randn(8)
        if self.at and self.global_step == self.at:
            if self.global_rank == self.rank:
                if self.number == 0:
                    raise RuntimeError("what the process came to")
                deliver(self.number)
            elif self.stuck:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                time.sleep(600)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 10))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Train with the settings of a JSON object: `output_dir`, `net`, `data`, `resume` and those of the trainer.

    `grace_s`: how long processes wait for one another after a failure, where that is what takes a test its time.
    """
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    from trainers.lightning import companions
    from trainers.lightning.trainer import LightningTrainer

    companions._GRACE_S = settings.pop("grace_s", companions._GRACE_S)

    out, net, data = Path(settings.pop("output_dir")), settings.pop("net", {}), settings.pop("data", {})
    if settings.pop("resume", False):
        run: Any = load_config(out / "config.yaml").config
        LightningTrainer().resume(RunDirectory.open(out), run, module=Net(**net), datamodule=Data(**data))
        return
    LightningTrainer(**settings).fit(Net(**net), Data(**data), output_dir=out)


if __name__ == "__main__":
    main()
