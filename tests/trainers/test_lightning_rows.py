"""What rows of a Lightning run say, and that loggers and callbacks get the same."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from two_processes import in_processes

from hlrp.config import LightningRun
from hlrp.errors import Interrupted
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
import lightning_toy as toy
from lightning_runs import EXACT, fit, resume, rows

from trainers.lightning.rollouts import Rollouts
from trainers.lightning.trainer import LightningTrainer

PLAIN: dict[str, Any] = {"log_freq": 1, "save_freq": 1000, "device": "cpu"}


class Uneven(toy.Data):
    """50 samples: 12 batches of 4 and one of 2."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(toy.Points(noise=self.noise), batch_size=self.batch, shuffle=True)

    def val_dataloader(self) -> Any:
        return []


def _logged(out: Path) -> list[tuple[int, str, float]]:
    """Step, name and number of everything in the files of the csv logger."""
    found = []
    for path in sorted(out.glob("logs/csv/*/metrics.csv")):
        for line in csv.DictReader(path.open()):
            step = int(line.pop("step"))
            found += [(step, name, float(value)) for name, value in line.items() if value]
    return found


def test_loggers_get_the_rows_each_number_once(tmp_path: Path) -> None:
    settings = EXACT | {"steps": 14, "log_freq": 4, "logger": ["csv"], "callbacks": ["LearningRateMonitor"]}
    fit(tmp_path / "run", **settings)
    found = _logged(tmp_path / "run")
    written = [
        (int(row["step"]), name, value)
        for row in RunDirectory.open(tmp_path / "run").metrics()
        for name, value in row.items()
        if name not in ("step", "time", "lr-AdamW")
    ]
    assert sorted(entry for entry in found if entry[1] != "lr-AdamW") == sorted(written)
    assert {(4, "loss"), (14, "grad_norm"), (10, "val_loss"), (12, "toy")} <= {entry[:2] for entry in found}
    assert len({entry[:2] for entry in found}) == len(found)


class Sees(toy.Net):
    """Looks at what callbacks may monitor when an epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.seen: dict[int, float | None] = {}

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = super().training_step(batch, index)
        self.losses.append(float(loss))
        return loss

    def on_train_epoch_end(self) -> None:
        value = self.trainer.callback_metrics.get("loss")
        self.seen[self.global_step] = None if value is None else float(value)


def test_early_stopping_watches_the_loss_before_there_is_a_row(tmp_path: Path) -> None:
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "loss", "patience": 2, "min_delta": 1e9}}
    net = Sees()
    fit(tmp_path / "run", net, Uneven(), **PLAIN | {"steps": 90, "log_freq": 20}, callbacks=[stopping])
    assert list(net.seen) == [13, 26, 39]
    since = {13: net.losses[:13], 26: net.losses[20:26], 39: net.losses[20:39]}
    assert net.seen == pytest.approx({step: sum(losses) / len(losses) for step, losses in since.items()}, rel=1e-5)
    assert rows(tmp_path / "run")[-1]["step"] == 39


def test_the_success_of_rollouts_is_monitored_in_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(Rollouts, "__call__", lambda _, checkpoint: {"eval_success": 0.5})
    monitored = {"monitor": "eval_success", "mode": "max"}
    callbacks = [
        {"class_path": "EarlyStopping", "init_args": monitored | {"patience": 1}},
        {"class_path": "ModelCheckpoint", "init_args": monitored},
    ]
    settings = PLAIN | {"steps": 60, "eval_freq": 4, "devices": 2, "strategy": "ddp", "callbacks": callbacks}
    run = LightningRun.model_validate(
        {"trainer_type": "lightning", "trainer": settings | {"logger": ["csv"]}, "model": {"policy_type": "act"}}
        | {"env": {"type": "pusht"}}
    )
    in_processes(2, lambda: LightningTrainer().fit(toy.Net(), Uneven(), run=run, output_dir=out))
    # The second ones were no better; an epoch has seven batches.
    assert rows(out)[-1]["step"] == 8
    found = [step for step, name, _ in _logged(out) if name == "eval_success"]
    assert found == [row["step"] for row in rows(out) if "eval_success" in row] == [4, 8]
    assert [path.name for path in (out / "best").iterdir()] == ["000004"]


def test_what_was_monitored_is_known_after_a_stop(tmp_path: Path) -> None:
    """The next validation is far away when the epoch of twelve steps ends."""
    at_the_end = {"monitor": "val_loss", "check_on_train_epoch_end": True}
    stopping = {"class_path": "EarlyStopping", "init_args": at_the_end}
    with pytest.raises(Interrupted):
        fit(tmp_path / "run", toy.Net(at=11), **EXACT | {"steps": 30}, callbacks=[stopping])
    resume(tmp_path / "run", steps=12)
    assert RunDirectory.open(tmp_path / "run").manifest.status == "finished"


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        ({}, [4 * n - 2 * (n // 13) for n in range(1, 31)]),
        # Seven steps an epoch: the last one has the short batch alone.
        ({"accumulate_grad_batches": 2}, [8 * n - 6 * (n // 7) for n in range(1, 31)]),
        ({"limit_train_batches": 5}, [4 * n for n in range(1, 31)]),
    ],
    ids=["one batch a step", "two batches a step", "a part of the epoch"],
)
def test_samples_are_counted_and_epochs_agree(tmp_path: Path, settings: dict[str, Any], samples: list[int]) -> None:
    epoch = 20 if "limit_train_batches" in settings else 50
    # A checkpoint between rows; the third row after it is the first one of an epoch that began before it.
    settings = PLAIN | {"steps": 30, "log_freq": 5} | settings
    with pytest.raises(Interrupted):
        fit(tmp_path / "run", toy.Net(at=17), Uneven(), **settings)
    resume(tmp_path / "run", data=Uneven())
    found = {int(row["step"]): row for row in rows(tmp_path / "run")}
    assert {step: row["samples"] for step, row in found.items()} == {n: samples[n - 1] for n in range(5, 31, 5)}
    epochs = {step: row["samples"] / epoch for step, row in found.items()}
    assert {step: row["epochs"] for step, row in found.items()} == pytest.approx(epochs)


class Gradients(toy.Net):
    """Notes the gradient that every optimizer step is made with, and which samples it is of."""

    def __init__(self) -> None:
        super().__init__(noise=False)
        self.steps: list[tuple[list[int], list[torch.Tensor], list[torch.Tensor]]] = []

    def optimizer_step(self, epoch: int, index: int, optimizer: Any, closure: Any = None) -> None:
        weights = [p.detach().clone() for p in self.parameters()]

        def with_gradients() -> Any:
            loss = closure()
            self.steps.append((self.ids, weights, [p.grad.clone() for p in self.parameters() if p.grad is not None]))
            self.ids = []
            return loss

        super().optimizer_step(epoch, index, optimizer, with_gradients)


def test_a_short_step_at_the_end_of_an_epoch_is_a_mean_too_and_steps_are_validated(tmp_path: Path) -> None:
    """12 batches an epoch in steps of 5, 5 and 2; held-out losses at the steps that were asked for."""
    net = Gradients()
    settings = PLAIN | {"steps": 7, "eval_split": 0.1, "eval_steps": 2, "accumulate_grad_batches": 5}
    fit(tmp_path / "run", net, toy.Data(noise=False), **settings)
    assert [len(ids) for ids, *_ in net.steps] == [20, 20, 8, 20, 20, 8, 20]
    for ids, weights, found in net.steps:
        again = toy.Net(noise=False)
        for parameter, value in zip(again.parameters(), weights, strict=True):
            parameter.data.copy_(value)
        x = torch.tensor([[index / 50, 1.0] for index in ids])
        (again.net(x) - x[:, :1]).pow(2).mean().backward()
        for parameter, gradient in zip(again.parameters(), found, strict=True):
            torch.testing.assert_close(gradient, parameter.grad)
    assert [row["step"] for row in rows(tmp_path / "run") if "val_loss" in row] == [2, 4, 6]


def test_samples_of_all_processes_are_counted(tmp_path: Path) -> None:
    """25 of 50 each, in batches of 4: the last batches of an epoch have one sample."""
    out = tmp_path / "run"
    settings = PLAIN | {"steps": 9, "devices": 2, "strategy": "ddp"}
    in_processes(2, lambda: LightningTrainer(**settings).fit(toy.Net(), Uneven(), output_dir=out))
    assert [row["samples"] for row in rows(out)] == [8, 16, 24, 32, 40, 48, 50, 58, 66]
    assert [row["epochs"] * 50 for row in rows(out)] == pytest.approx([row["samples"] for row in rows(out)])


class Seldom(toy.Net):
    """Logs a figure at some steps, and a mean at the end of every epoch of 13."""

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = super().training_step(batch, index)
        self.log("mean", self.global_step + 1.0, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        if self.global_step in (2, 13, 16):
            self.log("seldom", float(self.global_step))


def test_a_figure_is_in_one_row_and_none_is_lost(tmp_path: Path) -> None:
    fit(tmp_path / "often", Seldom(), Uneven(), **PLAIN | {"steps": 26})
    assert {row["step"]: row["seldom"] for row in rows(tmp_path / "often") if "seldom" in row} == {2: 2, 13: 13, 16: 16}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = PLAIN | {"steps": 26, "log_freq": 10, "logger": ["csv"]}
    fit(whole, Seldom(), Uneven(), **settings)
    figures = [(row["step"], row.get("seldom"), row.get("mean")) for row in rows(whole)]
    # What step 13 logged is newer than that of step 2, and older than that of step 16.
    assert figures == [(10, 2, None), (20, 16, 7), (26, None, None), (26, None, 20)]
    assert [entry for entry in _logged(whole) if entry[1] == "mean"] == [(20, "mean", 7), (26, "mean", 20)]
    # The end of an epoch erases what its last step logged, in a run that goes on there too.
    net = Seldom()
    net.at = 13
    fit(tmp_path / "unbroken", Seldom(), Uneven(), **settings | {"steps": 15})
    with pytest.raises(Interrupted):
        fit(stopped, net, Uneven(), **settings | {"steps": 15})
    resume(stopped, data=Uneven())
    for out in (tmp_path / "unbroken", stopped):
        assert [row["seldom"] for row in rows(out) if "loss" in row] == [2, 13]
