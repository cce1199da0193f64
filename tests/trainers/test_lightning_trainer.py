"""Runs of `LightningTrainer` on a small real module: exact resume, checkpoints, signals, what is recorded."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hlrp.config import load_config
from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
import lightning_toy as toy

from trainers.lightning.trainer import LightningTrainer

EXACT = {"steps": 40, "log_freq": 1, "save_freq": 20, "device": "cpu", "eval_split": 0.1, "eval_steps": 10}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _fit(out: Path, net: toy.Net | None = None, data: Any = None, **settings: Any) -> toy.Net:
    net = net or toy.Net()
    LightningTrainer(**settings).fit(net, data or toy.Data(), output_dir=out)
    return net


def _resume(out: Path, steps: int | None = None, data: Any = None) -> toy.Net:
    net = toy.Net()
    run: Any = load_config(out / "config.yaml").config
    LightningTrainer().resume(RunDirectory.open(out), run, steps=steps, module=net, datamodule=data or toy.Data())
    return net


def _rows(out: Path) -> list[dict[str, float]]:
    """Rows without what depends on the clock."""
    timed = {"update_s", "data_s", "data_wait", "samples_per_s", "rss_mb", "time"}
    return [{k: v for k, v in row.items() if k not in timed} for row in RunDirectory.open(out).metrics()]


def _state(out: Path, step: int) -> tuple[dict[str, torch.Tensor], str]:
    folder = out / "checkpoints" / f"{step:06d}" / "training_state"
    return load_file(folder / "lightning.safetensors"), (folder / "lightning.json").read_text()


def _assert_same(a: Path, b: Path, step: int) -> None:
    """Weights, moments, random states, counters: the whole training state."""
    tensors_a, json_a = _state(a, step)
    tensors_b, json_b = _state(b, step)
    assert tensors_a.keys() == tensors_b.keys()
    assert [k for k, t in tensors_a.items() if not torch.equal(t, tensors_b[k])] == []
    assert json.loads(json_a)["checkpoint"]["loops"] == json.loads(json_b)["checkpoint"]["loops"]


def _program(out: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(Path(toy.__file__)), json.dumps({"output_dir": str(out), **settings})]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=400, check=False, env=os.environ | {"PYTHONPATH": root}
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """40 steps in one go, and the samples it saw."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, _fit(out, **EXACT).ids


def test_twenty_steps_sigkill_twenty_steps_equal_forty(whole: tuple[Path, list[int]], tmp_path: Path) -> None:
    """In the middle of the second epoch (12 batches each), five steps after the checkpoint."""
    out = tmp_path / "killed"
    done = _program(out, **EXACT, net={"at": 25, "number": int(signal.SIGKILL)})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [c.step for c in RunDirectory.open(out).checkpoints()] == [20]
    resumed = _resume(out)
    assert resumed.ids == whole[1][20 * 4 :]
    assert _rows(out) == _rows(whole[0])
    _assert_same(out, whole[0], 40)
    assert RunDirectory.open(out).manifest.status == "finished"


@pytest.mark.parametrize("at", [24, 30], ids=["at the end of an epoch", "with a validation"])
def test_a_stop_by_sigterm_changes_nothing(whole: tuple[Path, list[int]], tmp_path: Path, at: int) -> None:
    out, before = tmp_path / "stopped", signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        _fit(out, toy.Net(at=at), **EXACT)
    assert stopped.value.exit_code == 143
    assert f"checkpoint {at:06d} is saved" in str(stopped.value)
    assert signal.getsignal(signal.SIGTERM) == before
    assert RunDirectory.open(out).manifest.status == "interrupted"
    assert _resume(out).ids == whole[1][at * 4 :]
    assert _rows(out) == _rows(whole[0])
    _assert_same(out, whole[0], 40)


def test_accumulation_counts_optimizer_steps_and_resumes(tmp_path: Path) -> None:
    settings = EXACT | {"steps": 8, "save_freq": 8, "eval_steps": 0, "accumulate_grad_batches": 3}
    whole = _fit(tmp_path / "whole", **settings)
    assert len(whole.ids) == 8 * 3 * 4
    with pytest.raises(Interrupted):
        _fit(tmp_path / "stopped", toy.Net(at=5, number=signal.SIGINT), **settings)
    resumed = _resume(tmp_path / "stopped")
    assert resumed.ids == whole.ids[5 * 3 * 4 :]
    _assert_same(tmp_path / "whole", tmp_path / "stopped", 8)


def test_keep_last_a_broken_newest_checkpoint_and_leftovers(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _fit(out, steps=8, save_freq=2, keep_last=2, log_freq=2, device="cpu")
    folder = out / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["000006", "000008", "last"]
    tensors = folder / "000008" / "training_state" / "lightning.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-5])
    (folder / ".unfinished-000010").mkdir()
    directory = RunDirectory.open(out)
    latest = directory.latest()
    assert latest is not None and latest.step == 6
    _resume(out, steps=10)
    assert sorted(p.name for p in folder.iterdir()) == ["000008", "000010", "last"]
    assert all(c.complete for c in directory.checkpoints())
    assert "truncated" in RunDirectory.open(out).manifest.resumed[0].skipped[0]
    with pytest.raises(UserError, match="complete: it has 10 of 10"):
        _resume(out, steps=10)


def test_last_names_the_newest_checkpoint_as_in_lerobots_runs(whole: tuple[Path, list[int]]) -> None:
    last = whole[0] / "checkpoints" / "last"
    assert last.is_symlink()
    assert last.readlink() == Path("000040")
    assert (last / "training_state" / "lightning.json").is_file()


def test_every_epoch_passes_over_the_data_once_in_another_order(whole: tuple[Path, list[int]]) -> None:
    epochs = [whole[1][i * 48 : (i + 1) * 48] for i in range(3)]
    assert [len(set(epoch)) for epoch in epochs] == [48, 48, 48]
    assert epochs[0] != epochs[1] != epochs[2]
    assert _rows(whole[0])[-1]["epochs"] == pytest.approx(40 / 12)


def test_rows_hold_what_lerobots_hold(whole: tuple[Path, list[int]]) -> None:
    rows = [row for row in RunDirectory.open(whole[0]).metrics() if "loss" in row]
    expected = {"step", "loss", "lr", "grad_norm", "update_s", "data_s", "data_wait", "samples_per_s", "samples"}
    assert expected <= rows[-1].keys()
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[-1]["samples"] == 160
    assert rows[5]["loss"] == pytest.approx(rows[5]["toy"])
    validations = [row["step"] for row in RunDirectory.open(whole[0]).metrics() if "val_loss" in row]
    assert validations == [10, 20, 30, 40]


def test_callbacks_by_name_loggers_profiler_and_other_arguments(tmp_path: Path) -> None:
    out = tmp_path / "run"
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 1, "min_delta": 1e9}}
    settings: dict[str, Any] = EXACT | {"callbacks": ["LearningRateMonitor", stopping], "profiler": "simple"}
    settings |= {"logger": ["csv", "tensorboard"], "trainer_args": {"deterministic": True}, "gradient_clip_val": 0.5}
    _fit(out, **settings)
    assert list(RunDirectory.open(out).metrics())[-1]["step"] == 20  # stopped early
    assert "lr-AdamW" in (out / "logs/csv/from_000000/metrics.csv").read_text()
    assert list((out / "logs/tensorboard").glob("events*"))
    assert "run_training_batch" in next(out.glob("*profile*")).read_text()


def test_failures_are_recorded_and_refusals_leave_nothing(tmp_path: Path) -> None:
    class Breaks(toy.Net):
        def training_step(self, batch: Any, index: int) -> Any:
            if self.global_step == 3:
                raise RuntimeError("CUDA out of memory")
            return super().training_step(batch, index)

    class Refuses(toy.Net):
        def setup(self, stage: str) -> None:
            raise UserError("not these data")

    with pytest.raises(WorkError, match="smaller --batch-size"):
        _fit(tmp_path / "broken", Breaks(), steps=5, device="cpu")
    assert RunDirectory.open(tmp_path / "broken").manifest.status == "failed"
    assert "CUDA out of memory" in (tmp_path / "broken" / "log.txt").read_text()
    with pytest.raises(UserError, match="not these data"):
        _fit(tmp_path / "refused", Refuses(), steps=5, device="cpu")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("settings", "mention"),
    [
        ({"callbacks": ["EarlyStoping"]}, "did you mean 'EarlyStopping'"),
        ({"callbacks": [{"class_path": "EarlyStopping"}]}, "monitor"),
        ({"callbacks": [{"class_path": "os.system"}]}, "lies outside"),
        ({"strategy": "dpp"}, "did you mean 'ddp'"),
        ({"strategy": "fsdp"}, "pickled format"),
        ({"strategy": "ddp_spawn"}, "copies of this process"),
        ({"trainer_args": {"determinstic": True}}, "did you mean 'deterministic'"),
        ({"trainer_args": {"max_steps": 3}}, "use trainer.steps"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"learning_rat": 1}, "learning_rat"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], mention: str
) -> None:
    with pytest.raises(UserError) as refused:
        _fit(tmp_path / "run", **({"steps": 2, "device": "cpu"} | settings))
    assert mention in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumable_sampler_continues_without_reading_what_was_trained_on(tmp_path: Path, workers: int) -> None:
    data = {"resumable": True, "workers": workers, "noise": False}
    settings = EXACT | {"steps": 20, "save_freq": 20}
    whole = _fit(tmp_path / "whole", data=toy.Data(**data), **settings)
    with pytest.raises(Interrupted):
        _fit(tmp_path / "stopped", toy.Net(at=15), toy.Data(**data), **settings)
    resumed = _resume(tmp_path / "stopped", data=toy.Data(**data))
    assert resumed.ids == whole.ids[15 * 4 :]
    _assert_same(tmp_path / "whole", tmp_path / "stopped", 20)


def test_a_length_in_epochs_resumes_too(tmp_path: Path) -> None:
    settings = {"max_epochs": 3, "log_freq": 1, "save_freq": 10, "device": "cpu"}
    whole = _fit(tmp_path / "whole", **settings)
    assert len(whole.ids) == 3 * 48
    assert RunDirectory.open(tmp_path / "whole").manifest.steps == 36
    with pytest.raises(Interrupted):
        _fit(tmp_path / "stopped", toy.Net(at=17), **settings)
    assert _resume(tmp_path / "stopped").ids == whole.ids[17 * 4 :]
    assert _rows(tmp_path / "stopped") == _rows(tmp_path / "whole")
    _assert_same(tmp_path / "whole", tmp_path / "stopped", 36)


def test_numbers_drawn_in_the_workers_of_a_plain_loader_are_drawn_again(tmp_path: Path) -> None:
    settings = EXACT | {"steps": 20, "save_freq": 20, "precision": "bf16"}
    whole = _fit(tmp_path / "whole", data=toy.Data(workers=2), **settings)
    with pytest.raises(Interrupted):
        _fit(tmp_path / "stopped", toy.Net(at=15), toy.Data(workers=2), **settings)
    assert _resume(tmp_path / "stopped", data=toy.Data(workers=2)).ids == whole.ids[15 * 4 :]
    assert _rows(tmp_path / "stopped") == _rows(tmp_path / "whole")


@pytest.mark.slow
def test_a_compiled_module_trains_and_resumes(tmp_path: Path) -> None:
    assert len(_fit(tmp_path / "run", steps=3, log_freq=1, device="cpu", compile=True).ids) == 12
    _resume(tmp_path / "run", steps=5)
    assert list(RunDirectory.open(tmp_path / "run").metrics())[-1]["step"] == 5


def test_a_closed_terminal_saves(whole: tuple[Path, list[int]], tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted) as stopped:
        _fit(out, toy.Net(at=24, number=signal.SIGHUP), **EXACT)
    assert stopped.value.exit_code == 129
    manifest = RunDirectory.open(out).manifest
    assert (manifest.status, manifest.reason) == ("interrupted", "stopped by signal 1")
    assert _resume(out).ids == whole[1][24 * 4 :]


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
        _fit(out, Explodes(14), toy.Data(noise=False), **settings)
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
    _fit(tmp_path / "run", Explodes(5, 13), toy.Data(noise=False), **settings)
    assert RunDirectory.open(tmp_path / "run").manifest.status == "finished"
    with pytest.raises(WorkError, match="for 9 steps in a row, from step 5 on"):
        _fit(tmp_path / "strict", Explodes(5, 13), toy.Data(noise=False), **settings, max_nonfinite_steps=9)


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"steps": 12, "save_freq": 4, "log_freq": 4, "device": "cpu", "max_nonfinite_steps": 99}
    with pytest.raises(WorkError, match="weights of step 8 are not finite"):
        _fit(out, Explodes(6, spoil=True), toy.Data(noise=False), **settings)
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
            _fit(tmp_path / "run", Talks(), steps=9, log_freq=1, device="cpu")
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

    _fit(out, Meddles(), steps=5, save_freq=2, device="cpu")
    assert f"process {os.getpid()} on" in refused[0]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_damaged_rows_do_not_keep_a_run_from_being_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _fit(out, steps=4, save_freq=2, log_freq=1, device="cpu")
    whole = (out / "metrics.jsonl").read_bytes()
    (out / "metrics.jsonl").write_bytes(b"[1]\n\xff\n" + whole)
    _resume(out, steps=6)
    assert [row["step"] for row in _rows(out)] == [1, 2, 3, 4, 5, 6]
    assert "2 damaged lines" in RunDirectory.open(out).manifest.warnings[0]
