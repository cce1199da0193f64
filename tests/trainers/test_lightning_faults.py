"""Runs of `LightningTrainer` that go wrong: closed terminals, losses that are no numbers, two writers, damage."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
import lightning_toy as toy
from lightning_runs import EXACT, fit, resume, rows
from own_signals import deliver

from trainers.lifecycle import RunLifecycle
from trainers.lightning.trainer import LightningTrainer


def test_a_closed_terminal_saves(whole: tuple[Path, list[int]], tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted) as stopped:
        fit(out, toy.Net(at=24, number=signal.SIGHUP), **EXACT)
    assert stopped.value.exit_code == 129
    manifest = RunDirectory.open(out).manifest
    assert (manifest.status, manifest.reason) == ("interrupted", "stopped by signal 1")
    assert resume(out).ids == whole[1][24 * 4 :]


def test_a_stop_as_soon_as_the_folder_is_named_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = RunLifecycle.create

    def interrupted(self: RunLifecycle, *args: Any, **fields: Any) -> RunDirectory:
        directory = create(self, *args, **fields)
        deliver(signal.SIGTERM)
        return directory

    monkeypatch.setattr(RunLifecycle, "create", interrupted)
    with pytest.raises(Interrupted, match="nothing to save") as stopped:
        fit(tmp_path / "run", steps=2, device="cpu")
    assert stopped.value.exit_code == 143 and list(tmp_path.iterdir()) == []


class Bereft(toy.Net):
    """What it needs is gone in step 8, which a signal precedes if there is one."""

    def __init__(self, number: int | None) -> None:
        super().__init__()
        self.told = number

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == 7:
            if self.told is not None:
                deliver(self.told)
            raise RuntimeError("what was told to stop as well is gone")
        return super().training_step(batch, index)


def test_a_step_that_fails_after_a_signal_was_interrupted(tmp_path: Path) -> None:
    settings = {"steps": 20, "save_freq": 5, "log_freq": 5, "device": "cpu"}
    with pytest.raises(Interrupted, match="checkpoint 000005 is saved") as stopped:
        fit(tmp_path / "told", Bereft(signal.SIGTERM), **settings)
    assert stopped.value.exit_code == 143
    assert RunDirectory.open(tmp_path / "told").manifest.status == "interrupted"
    assert "what was told to stop as well is gone" in (tmp_path / "told/log.txt").read_text()
    with pytest.raises(WorkError, match="what was told to stop as well is gone"):
        fit(tmp_path / "not", Bereft(None), **settings)


class Explodes(toy.Net):
    """Its loss is no number from step `first` to step `last`; `spoil`: its weights neither, from then on."""

    def __init__(self, first: int, last: int = 10**9, spoil: bool = False) -> None:
        super().__init__(noise=False)
        self.first, self.last, self.spoil = first, last, spoil

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = super().training_step(batch, index)
        step = self.global_step + 1
        if self.spoil and step >= self.first:
            return loss * float("nan")
        # The gradient is that of the plain loss: the weights stay numbers.
        return loss + float("inf") if self.first <= step <= self.last else loss


def test_a_loss_that_is_no_number_for_ten_steps_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = {"steps": 60, "save_freq": 10, "log_freq": 4, "device": "cpu"}
    with pytest.raises(WorkError, match="not a finite number for 10 steps in a row, from step 14 on"):
        fit(out, Explodes(14), toy.Data(noise=False), **settings)
    directory = RunDirectory.open(out)
    assert directory.manifest.status == "failed"
    assert "the last good checkpoint is 000020" in directory.manifest.reason
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (out / "metrics.jsonl").open()]
    rows = [row for row in rows if "loss" in row]
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24], "it is looked at whenever a row is due"
    assert [row["loss"] for row in rows][3:] == [None] * 3
    assert capsys.readouterr().err.count("warning:") == 1
    assert len(directory.manifest.warnings) == 1


def test_a_few_steps_without_a_number_are_put_up_with(tmp_path: Path) -> None:
    settings = {"steps": 30, "log_freq": 7, "device": "cpu", "accumulate_grad_batches": 2}
    fit(tmp_path / "run", Explodes(5, 13), toy.Data(noise=False), **settings)
    assert RunDirectory.open(tmp_path / "run").manifest.status == "finished"
    with pytest.raises(WorkError, match="for 9 steps in a row, from step 5 on"):
        fit(tmp_path / "strict", Explodes(5, 13), toy.Data(noise=False), **settings, max_nonfinite_steps=9)


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"steps": 12, "save_freq": 4, "log_freq": 4, "device": "cpu", "max_nonfinite_steps": 99}
    with pytest.raises(WorkError, match="weights of step 8 are not finite"):
        fit(out, Explodes(6, spoil=True), toy.Data(noise=False), **settings)
    directory = RunDirectory.open(out)
    assert [c.step for c in directory.checkpoints()] == [4]
    assert "the last good checkpoint is 000004" in directory.manifest.reason


def test_the_log_goes_to_its_file_once_and_nothing_of_it_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import logging
    import warnings

    class Talks(toy.Net):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            logging.getLogger("a.library").error("from a library %d", self.global_step)
            logging.getLogger("hlrp.toy").warning("from ourselves")
            warnings.warn("from warnings", stacklevel=1)
            if self.global_step == 3:
                raise RuntimeError("broken on purpose")
            return super().training_step(batch, index)

    # As LeRobot's import leaves it; Lightning and others have handlers of their own.
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    own = logging.getLogger("a.library.of_its_own")
    own.addHandler(handler)
    own.propagate = False
    try:
        with pytest.raises(WorkError, match="broken on purpose"):
            fit(tmp_path / "run", Talks(), steps=9, log_freq=1, device="cpu")
        assert handler in logging.getLogger().handlers and handler in own.handlers
    finally:
        logging.getLogger().removeHandler(handler)
        own.removeHandler(handler)
    shown, log = capsys.readouterr().err, (tmp_path / "run" / "log.txt").read_text()
    assert "Traceback" not in shown and "from a library" not in shown and "from warnings" not in shown
    assert "hlrp.train" not in shown and "GPU available" not in shown, "rows are shown as progress alone"
    assert shown.count("warning: from ourselves") == 1
    assert [log.count(f"from a library {step}") for step in range(4)] == [1] * 4
    assert log.count("hlrp.train: step 2 (1 batches)") == 1
    assert log.count("Traceback") == 1 and "RuntimeError: broken on purpose" in log


def test_a_run_that_is_being_written_cannot_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused: list[str] = []

    class Meddles(toy.Net):
        def on_train_batch_end(self, *args: Any) -> None:
            if self.global_step == 3 and not refused:
                with pytest.raises(UserError) as error:
                    LightningTrainer().resume(RunDirectory.open(out), None)
                refused.append(str(error.value))
            super().on_train_batch_end(*args)

    fit(out, Meddles(), steps=5, save_freq=2, device="cpu")
    assert f"process {os.getpid()} on" in refused[0]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_damaged_rows_do_not_keep_a_run_from_being_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(out, steps=4, save_freq=2, log_freq=1, device="cpu")
    whole = (out / "metrics.jsonl").read_bytes()
    (out / "metrics.jsonl").write_bytes(b"[1]\n\xff\n" + whole)
    resume(out, steps=6)
    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4, 5, 6]
    assert "2 damaged lines" in RunDirectory.open(out).manifest.warnings[0]


class Averages(toy.Net):
    """Brings a callback of its own."""

    def configure_callbacks(self) -> Any:
        class Mine(EMAWeightAveraging):
            pass

        return [Mine(decay=0.9)]


def test_an_average_that_would_not_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Mine would be validated(.|\n)*Averages.configure_callbacks"):
        fit(tmp_path / "run", Averages(), steps=2, device="cpu")
    assert not (tmp_path / "run").exists()
