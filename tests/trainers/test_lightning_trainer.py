"""Runs of `LightningTrainer` on a small real module: exact resume, checkpoints, signals, what is recorded."""

import datetime as dt
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from two_processes import in_processes

from hlrp.config import LightningRun
from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
import lightning_toy as toy
from lightning_runs import EXACT, assert_same, fit, program, resume, rows

from trainers.lightning.rollouts import Rollouts
from trainers.lightning.trainer import LightningTrainer


def test_twenty_steps_sigkill_twenty_steps_equal_forty(whole: tuple[Path, list[int]], tmp_path: Path) -> None:
    """In the middle of the second epoch (12 batches each), five steps after the checkpoint."""
    out = tmp_path / "killed"
    done = program(out, **EXACT, net={"at": 25, "number": int(signal.SIGKILL)})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [c.step for c in RunDirectory.open(out).checkpoints()] == [20]
    resumed = resume(out)
    assert resumed.ids == whole[1][20 * 4 :]
    assert rows(out) == rows(whole[0])
    assert_same(out, whole[0], 40)
    assert RunDirectory.open(out).manifest.status == "finished"


class Fails(toy.Net):
    """As a kill in the step after the 13th: nothing is saved, and what was saved stays."""

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        if self.global_step == 13:
            raise RuntimeError("cut off")


def test_best_checkpoints_later_than_where_a_run_goes_on_are_forgotten(tmp_path: Path) -> None:
    out, unbroken = tmp_path / "cut", tmp_path / "unbroken"
    best = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "step", "mode": "max", "every_n_train_steps": 4}}
    named = {"class_path": "ModelCheckpoint", "init_args": {"filename": "toy={toy:.1f}", "every_n_train_steps": 4}}
    settings: dict[str, Any] = {"steps": 16, "save_freq": 10, "device": "cpu", "callbacks": [best, named]}
    fit(unbroken, **settings)
    with pytest.raises(WorkError, match="cut off"):
        fit(out, Fails(), **settings)
    assert (out / "best" / "000012").is_dir() and [c.step for c in RunDirectory.open(out).checkpoints()] == [10]
    resume(out)
    kept = [sorted(path.name for path in (run / "best").iterdir()) for run in (out, unbroken)]
    assert kept[0] == kept[1] and "000016" in kept[0] and len(kept[0]) == 2


@pytest.mark.parametrize("at", [24, 30], ids=["at the end of an epoch", "with a validation"])
def test_a_stop_by_sigterm_changes_nothing(whole: tuple[Path, list[int]], tmp_path: Path, at: int) -> None:
    out, before = tmp_path / "stopped", signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        fit(out, toy.Net(at=at), **EXACT)
    assert stopped.value.exit_code == 143
    assert f"checkpoint {at:06d} is saved" in str(stopped.value)
    assert signal.getsignal(signal.SIGTERM) == before
    assert RunDirectory.open(out).manifest.status == "interrupted"
    assert resume(out).ids == whole[1][at * 4 :]
    assert rows(out) == rows(whole[0])
    assert_same(out, whole[0], 40)


def test_accumulation_counts_optimizer_steps_and_resumes(tmp_path: Path) -> None:
    losses: list[float] = []

    class Kept(toy.Net):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = super().training_step(batch, index)
            losses.append(float(loss))
            return loss

    settings = EXACT | {"steps": 8, "save_freq": 8, "eval_steps": 0, "accumulate_grad_batches": 3}
    whole = fit(tmp_path / "whole", Kept(), **settings)
    assert len(whole.ids) == 8 * 3 * 4
    means = [sum(losses[i : i + 3]) / 3 for i in range(0, 24, 3)]
    assert [row["loss"] for row in rows(tmp_path / "whole") if "loss" in row] == pytest.approx(means, rel=1e-5)
    with pytest.raises(Interrupted):
        fit(tmp_path / "stopped", toy.Net(at=5, number=signal.SIGINT), **settings)
    resumed = resume(tmp_path / "stopped")
    assert resumed.ids == whole.ids[5 * 3 * 4 :]
    assert_same(tmp_path / "whole", tmp_path / "stopped", 8)


def test_keep_last_a_broken_newest_checkpoint_and_leftovers(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(out, steps=8, save_freq=2, keep_last=2, log_freq=2, device="cpu")
    folder = out / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["000006", "000008", "last"]
    tensors = folder / "000008" / "training_state" / "lightning.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-5])
    (folder / ".unfinished-000010").mkdir()
    directory = RunDirectory.open(out)
    latest = directory.latest()
    assert latest is not None and latest.step == 6
    resume(out, steps=10)
    assert sorted(p.name for p in folder.iterdir()) == ["000008", "000010", "last"]
    assert all(c.complete for c in directory.checkpoints())
    assert "truncated" in RunDirectory.open(out).manifest.resumed[0].skipped[0]
    for steps in (10, None):  # the length that it had last, not the one it began with
        with pytest.raises(UserError, match="complete: it has 10 of 10"):
            resume(out, steps)


def test_last_names_the_newest_checkpoint_as_in_lerobots_runs(whole: tuple[Path, list[int]]) -> None:
    last = whole[0] / "checkpoints" / "last"
    assert last.is_symlink()
    assert last.readlink() == Path("000040")
    assert (last / "training_state" / "lightning.json").is_file()


def test_every_epoch_passes_over_the_data_once_in_another_order(whole: tuple[Path, list[int]]) -> None:
    epochs = [whole[1][i * 48 : (i + 1) * 48] for i in range(3)]
    assert [len(set(epoch)) for epoch in epochs] == [48, 48, 48]
    assert epochs[0] != epochs[1] != epochs[2]
    assert rows(whole[0])[-1]["epochs"] == pytest.approx(40 / 12)


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
    fit(out, **settings)
    assert list(RunDirectory.open(out).metrics())[-1]["step"] == 20  # stopped early
    assert "lr-AdamW" in (out / "logs/csv/from_000000/metrics.csv").read_text()
    assert list((out / "logs/tensorboard").glob("events*"))
    assert "run_training_batch" in next(out.glob("*profile*")).read_text()


def test_the_others_wait_for_rollouts_as_long_as_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than processes wait for one another in a step."""
    out, setup = tmp_path / "run", DDPStrategy.setup_environment

    def impatient(self: DDPStrategy) -> None:
        self._timeout = dt.timedelta(seconds=2)
        setup(self)

    def slow(self: Rollouts, checkpoint: Path) -> dict[str, float]:
        time.sleep(4)
        return {"eval_success": 0.5}

    monkeypatch.setattr(DDPStrategy, "setup_environment", impatient)
    monkeypatch.setattr(Rollouts, "__call__", slow)
    trainer = {"steps": 2, "eval_freq": 1, "log_freq": 1, "device": "cpu", "devices": 2, "strategy": "ddp"}
    run = LightningRun.model_validate(
        {"trainer_type": "lightning", "trainer": trainer, "model": {"policy_type": "act"}, "env": {"type": "pusht"}}
    )
    data = toy.Data()
    in_processes(2, lambda: LightningTrainer().fit(toy.Net(), data, run=run, output_dir=out))
    assert [row["step"] for row in rows(out) if "eval_success" in row] == [1, 2]
    assert RunDirectory.open(out).manifest.status == "finished"


def test_a_training_that_ends_early_is_rolled_out_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(toy.Net):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = self.global_step >= 3

    seen: list[str] = []
    monkeypatch.setattr(Rollouts, "__call__", lambda _, checkpoint: seen.append(checkpoint.name) or {"eval_success": 1})
    trainer = {"steps": 9, "eval_freq": 2, "log_freq": 1, "device": "cpu"}
    env = {"type": "pusht"}
    run = LightningRun(trainer_type="lightning", trainer=trainer, model={"policy_type": "act"}, env=env)
    LightningTrainer().fit(Enough(), toy.Data(), run=run, output_dir=tmp_path / "run")
    assert seen == ["000002", "000003"]
    assert [row["step"] for row in rows(tmp_path / "run") if "eval_success" in row] == [2, 3]


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
        fit(tmp_path / "broken", Breaks(), steps=5, device="cpu")
    assert RunDirectory.open(tmp_path / "broken").manifest.status == "failed"
    assert "CUDA out of memory" in (tmp_path / "broken" / "log.txt").read_text()
    with pytest.raises(UserError, match="not these data"):
        fit(tmp_path / "refused", Refuses(), steps=5, device="cpu")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("settings", "mention"),
    [
        ({"callbacks": ["EarlyStoping"]}, "did you mean 'EarlyStopping'"),
        ({"callbacks": [{"class_path": "EarlyStopping"}]}, "monitor"),
        ({"callbacks": [{"class_path": "os.system"}]}, "lies outside"),
        ({"strategy": "dpp"}, "did you mean 'ddp'"),
        ({"strategy": "fsdp_cpu_offload"}, "pickled format"),
        ({"activation_checkpointing": True}, "no stacked layers"),
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
        fit(tmp_path / "run", **({"steps": 2, "device": "cpu"} | settings))
    assert mention in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumable_sampler_continues_without_reading_what_was_trained_on(tmp_path: Path, workers: int) -> None:
    data = {"resumable": True, "workers": workers, "noise": False}
    settings = EXACT | {"steps": 20, "save_freq": 20}
    whole = fit(tmp_path / "whole", data=toy.Data(**data), **settings)
    with pytest.raises(Interrupted):
        fit(tmp_path / "stopped", toy.Net(at=15), toy.Data(**data), **settings)
    resumed = resume(tmp_path / "stopped", data=toy.Data(**data))
    assert resumed.ids == whole.ids[15 * 4 :]
    assert_same(tmp_path / "whole", tmp_path / "stopped", 20)


def test_a_length_in_epochs_resumes_too(tmp_path: Path) -> None:
    settings = {"max_epochs": 3, "log_freq": 1, "save_freq": 10, "device": "cpu"}
    whole = fit(tmp_path / "whole", **settings)
    assert len(whole.ids) == 3 * 48
    assert RunDirectory.open(tmp_path / "whole").manifest.steps == 36
    with pytest.raises(Interrupted):
        fit(tmp_path / "stopped", toy.Net(at=17), **settings)
    assert resume(tmp_path / "stopped").ids == whole.ids[17 * 4 :]
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "stopped", 36)


def test_numbers_drawn_in_the_workers_of_a_plain_loader_are_drawn_again(tmp_path: Path) -> None:
    settings = EXACT | {"steps": 20, "save_freq": 20, "precision": "bf16"}
    whole = fit(tmp_path / "whole", data=toy.Data(workers=2), **settings)
    with pytest.raises(Interrupted):
        fit(tmp_path / "stopped", toy.Net(at=15), toy.Data(workers=2), **settings)
    assert resume(tmp_path / "stopped", data=toy.Data(workers=2)).ids == whole.ids[15 * 4 :]
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def _compile_cheaply(module: torch.nn.Module, **options: Any) -> None:
    module._compiled_call_impl = torch.compile(module._call_impl, backend="eager", fullgraph=True, **options)


def test_compiled_training_leaves_what_plain_training_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed too, the one as the other."""
    monkeypatch.setattr(torch.nn.Module, "compile", _compile_cheaply)
    settings = EXACT | {"steps": 10, "save_freq": 5, "eval_steps": 4}
    fit(tmp_path / "plain", **settings)
    for compiled in (True, False):
        out = tmp_path / str(compiled)
        with pytest.raises(Interrupted):
            fit(out, toy.Net(at=5), compile=compiled, **settings)
        text = (out / "config.yaml").read_text()
        given, other = (f"compile: {str(flag).lower()}" for flag in (compiled, not compiled))
        assert given in text
        (out / "config.yaml").write_text(text.replace(given, other))
        net = resume(out)
        assert (net.net._compiled_call_impl is None) is compiled
        assert_same(tmp_path / "plain", out, 10)


@pytest.mark.slow
def test_the_compiler_trains_as_plain_kernels_do(tmp_path: Path) -> None:
    nets = [toy.Net(noise=False) for _ in range(2)]
    for net, compiled in zip(nets, (False, True), strict=True):
        data = toy.Data(noise=False)
        fit(tmp_path / str(compiled), net, data, steps=10, log_freq=1, device="cpu", compile=compiled)
    plain, found = (net.state_dict() for net in nets)
    assert found.keys() == plain.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-6)


def test_overfit_batches_are_the_same_in_every_epoch(tmp_path: Path) -> None:
    """Also where a batch sampler orders each epoch anew, and in a run that goes on in the middle of one."""
    data = {"resumable": True, "noise": False}
    net = toy.Net(at=3)
    settings = EXACT | {"steps": 7, "eval_steps": 0, "trainer_args": {"overfit_batches": 2}}
    with pytest.raises(Interrupted):
        fit(tmp_path / "run", net, toy.Data(**data), **settings)
    ids = net.ids + resume(tmp_path / "run", data=toy.Data(**data)).ids
    batches = [ids[start : start + 4] for start in range(0, 28, 4)]
    assert batches == [*batches[:2] * 3, batches[0]]
    assert batches[0] != batches[1]
