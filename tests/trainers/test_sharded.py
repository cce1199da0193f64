"""FSDP2 under the Lightning trainer, in real processes on the CPU: numbers, kills, another number of processes."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning_toy import Data
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from two_processes import in_processes

from hlrp.config import LightningRun, load_config
from hlrp.laq import LAQModule
from hlrp.policies.average import RunningAverage
from hlrp.runs import RunDirectory
from trainers.lightning.trainer import LightningTrainer

STEPS, KILLED_AT = 20, 13


class Layer(nn.Module):
    """Odd sizes, so that the processes' parts differ."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(5), nn.Linear(5, 7), nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left = self.narrow(self.wide(self.norm(x)).relu())
        return x + self.left


class Stacked(LightningModule):
    """Layers that are called, one of which only parts are, and one that leaves something for others, as a cache is.

    Beside them a frozen weight, one with two names, a buffer and a running average.
    """

    def __init__(self, killed_at: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.killed_at = killed_at
        self.first, self.layers, self.last = nn.Linear(2, 5), nn.ModuleList(Layer() for _ in range(4)), nn.Linear(5, 1)
        self.last.bias.requires_grad_(False)
        self.tied = nn.Linear(2, 5, bias=False)
        self.tied.weight = self.first.weight
        self.register_buffer("seen", torch.zeros(()))
        self.average = RunningAverage(self.layers, 0.5).requires_grad_(False)

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        x = self.layers[1](self.layers[0](self.first(batch["x"])))
        x = x + self.layers[2].narrow(self.layers[2].wide(x).relu())
        self.layers[3](x)
        self.seen += 1
        return (self.last(self.layers[3].left + self.tied(batch["x"]).tanh()) - batch["x"][:, :1].sin()).pow(2).mean()

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        self.log("val_loss", self.last(self.layers[0](self.first(batch["x"]))).mean())

    def on_train_batch_end(self, *args: Any) -> None:
        self.average.update_parameters(self.layers)
        if self.killed_at and self.killed_at == self.global_step:
            signal.raise_signal(signal.SIGKILL)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 10))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def save_pretrained(self, folder: Path) -> None:
        save_file({name: value.clone() for name, value in self.state_dict().items()}, folder / "model.safetensors")


def fit(out: Path, devices: int, *, killed_at: int = 0, **settings: Any) -> None:
    asked = {"steps": STEPS, "device": "cpu", "log_freq": 1, "save_freq": 5, "gradient_clip_val": 0.5, "logger": []}
    asked |= {"trainer_args": {"use_distributed_sampler": False}, "devices": devices} | settings
    data = Data(batch=4 // devices, noise=False, resumable=True)
    LightningTrainer(**asked).fit(Stacked(killed_at), data, output_dir=out)


def go_on(out: Path, devices: int) -> None:
    run: Any = load_config(out / "config.yaml").config
    run = run.model_copy(update={"trainer": run.trainer.on_devices(devices)})
    data = Data(batch=4 // devices, noise=False, resumable=True)
    LightningTrainer().resume(RunDirectory.open(out), run, module=Stacked(), datamodule=data)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in RunDirectory.open(run).metrics() if "loss" in row]


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ddp") / "run"
    in_processes(2, lambda: fit(out, 2, strategy="ddp_find_unused_parameters_true"))
    return out


def test_a_killed_run_goes_on_in_one_process_and_in_two_with_the_losses_of_ddp(ddp: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert -signal.SIGKILL in in_processes(2, lambda: fit(out, 2, strategy="fsdp", killed_at=KILLED_AT), check=False)
    shutil.copytree(out, tmp_path / "two", symlinks=True)
    damaged = shutil.copytree(out, tmp_path / "damaged", symlinks=True)
    parts = sorted((damaged / "checkpoints/000010/training_state/shards").iterdir())
    parts[1].unlink()
    older, newest = RunDirectory.open(damaged).checkpoints()
    assert older.complete and len(parts) == 2
    assert newest.problem is not None and parts[1].name in newest.problem
    assert losses(out)[:12] == pytest.approx(losses(ddp)[:12], abs=1e-6)
    in_processes(1, lambda: go_on(out, 1))
    in_processes(2, lambda: go_on(tmp_path / "two", 2))
    for run in (out, tmp_path / "two"):
        assert len(losses(run)) == STEPS
        assert losses(run) == pytest.approx(losses(ddp), abs=1e-6)
        saved, theirs = (load_file(r / "checkpoints/last/pretrained_model/model.safetensors") for r in (run, ddp))
        assert saved.keys() == theirs.keys()
        assert max(float((saved[name] - theirs[name]).abs().max()) for name in saved) < 1e-5
        assert torch.equal(saved["tied.weight"], saved["first.weight"])


def test_accumulation_bf16_and_layers_computed_twice(tmp_path: Path) -> None:
    """Against DDP, which keeps what it computes."""
    settings: dict[str, Any] = {"steps": 4, "precision": "bf16", "accumulate_grad_batches": 2, "save_freq": 4}
    in_processes(2, lambda: fit(tmp_path / "ddp", 2, strategy="ddp_find_unused_parameters_true", **settings))
    in_processes(2, lambda: fit(tmp_path / "run", 2, strategy="fsdp", activation_checkpointing=True, **settings))
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "ddp"), rel=1e-3) and losses(tmp_path / "run")


def quantizer() -> LAQModule:
    run = {
        "trainer_type": "lightning",
        "trainer": {"steps": 20},
        "model": {"kind": "laq", "preset": "tiny", "image_size": [16, 16], "patch_size": 8},
        "data": {"root": "toy"},
    }
    torch.manual_seed(0)
    return LAQModule(LightningRun.model_validate(run))


class Squares(LightningDataModule):
    """Windows of two frames of noise, other ones in each process; the same in every epoch."""

    def _batches(self, count: int) -> DataLoader[Any]:
        random = torch.Generator().manual_seed(1 + self.trainer.global_rank)
        frames = torch.randint(256, (count, 4, 2, 3, 16, 16), dtype=torch.uint8, generator=random)
        return DataLoader([{"frames": f, "valid": torch.ones(4, 1, dtype=torch.bool)} for f in frames], batch_size=None)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Any]:
        return self._batches(20)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._batches(2)


def test_a_quantizer_is_placed_mended_validated_and_resumed_as_with_ddp(tmp_path: Path) -> None:
    """Its encoder computes before the first step; unused codes are replaced after the tenth."""
    asked: Any = {"device": "cpu", "devices": 2, "log_freq": 1, "val_check_interval": 4, "logger": []}
    asked |= {"trainer_args": {"use_distributed_sampler": False}}

    def spread() -> None:
        out = tmp_path / "fsdp"
        LightningTrainer(strategy="fsdp", steps=6, **asked).fit(quantizer(), Squares(), output_dir=out)
        run: Any = load_config(out / "config.yaml").config
        LightningTrainer().resume(RunDirectory.open(out), run, steps=12, module=quantizer(), datamodule=Squares())

    def whole() -> None:
        LightningTrainer(strategy="ddp", steps=12, **asked).fit(quantizer(), Squares(), output_dir=tmp_path / "ddp")

    in_processes(2, spread)
    in_processes(2, whole)
    found, expected = ([*RunDirectory.open(tmp_path / name).metrics()] for name in ("fsdp", "ddp"))
    for key, count in (("loss", 12), ("val_loss", 3), ("val_psnr", 3)):
        values, theirs = ([row[key] for row in rows if key in row] for rows in (found, expected))
        assert len(values) == count and values == pytest.approx(theirs, abs=1e-6)
