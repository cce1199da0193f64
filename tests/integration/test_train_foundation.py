"""`hlrp train --model foundation` as a user runs it: labels, resume, kills, two processes, refusals."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command import assert_user_error, hlrp, hlrp_argv, hlrp_in_turn, instead
from make_dataset import make_dataset

from hlrp.runs import RunDirectory

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
LAQ = ("model.preset=tiny", "model.image_size=24", "model.codebook_size=8", "model.code_seq_len=2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of two tasks, 96 pixels."""
    tasks = ("push the square", "pull the square")
    return make_dataset(tmp_path_factory.mktemp("data") / "squares", episodes=6, length=20, size=96, tasks=tasks)


@pytest.fixture(scope="module")
def labels(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A quantizer that was trained for a moment, and the table it makes, both by their commands."""
    folder = tmp_path_factory.mktemp("labels")
    laq, table = folder / "laq", folder / "table"
    base = ["train", "--model", "laq", "--dataset-root", root, "--device", "cpu", "--batch-size", "16", "--steps", "20"]
    done = hlrp(*base, "--output-dir", laq, "data.offset_seconds=0.2", *LAQ, env=ONE_THREAD)
    assert done.code == 0, done.err
    done = hlrp("precompute-latents", "--laq", laq, "--dataset-root", root, "--output", table, env=ONE_THREAD)
    assert done.code == 0, done.err
    return laq, table


def _args(root: Path, out: Path, steps: int, *more: str | Path) -> list[str]:
    base = ["train", "--model", "foundation", "--dataset-root", root, "--device", "cpu", "--output-dir", out]
    keys = ["trainer.log_freq=1", "trainer.save_freq=6", "trainer.eval_split=0.3", "trainer.eval_steps=6"]
    length = ["--batch-size", 4, "--steps", steps, "data.cache=ram"]
    return instead([str(a) for a in (*base, *keys, *length)], more)


def _rows(run: Path) -> list[dict[str, Any]]:
    timed = {"update_s", "data_s", "data_wait", "samples_per_s", "rss_mb", "time"}
    return [{k: v for k, v in row.items() if k not in timed} for row in RunDirectory.open(run).metrics()]


def _killed_after(args: list[str], run: Path, rows: int) -> int:
    process = subprocess.Popen(
        hlrp_argv(*args), stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | ONE_THREAD
    )
    end = time.monotonic() + 240
    while not (run / "metrics.jsonl").is_file() or (run / "metrics.jsonl").read_text().count("\n") < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no rows"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode


def scores(run: Path, step: int) -> dict[str, float]:
    """What a checkpoint scores on the run's held-out episodes: the validation of that step, in another process."""
    import torch

    from hlrp.config import load_config
    from hlrp.foundation import FoundationDataModule, load_backend
    from hlrp.foundation.validation import Validation
    from hlrp.foundation.vla_backend_module import FoundationModule

    config: Any = load_config(run / "config.yaml").config
    data = FoundationDataModule(config)
    module = FoundationModule(config, data).eval()
    module.backend, _ = load_backend(run / "checkpoints" / f"{step:06d}")
    batches = list(data.val_dataloader())
    validation = Validation(
        module.backend, module.config, module.tasks, batches=len(batches), device=torch.device("cpu")
    )
    with torch.no_grad():
        losses = [
            (len(batch["index"]), float(validation.update(module.labelled(batch), i).loss))
            for i, batch in enumerate(batches)
        ]
    loss = sum(count * value for count, value in losses) / sum(count for count, _ in losses)
    return validation.compute(module._majority()) | {"val_loss": loss}


@pytest.fixture(scope="module")
def whole(root: Path, labels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps in one go, with a table."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = hlrp(*_args(root, out, 12, "--latents", labels[1]), env=ONE_THREAD)
    assert done.code == 0, done.err
    assert f"--init-from {out}" in done.out
    return out


def test_the_run_directory(whole: Path, labels: tuple[Path, Path]) -> None:
    manifest = RunDirectory.open(whole).manifest
    assert (manifest.trainer, manifest.policy, manifest.status) == ("lightning", "foundation", "finished")
    assert manifest.checkpoints == ["000006", "000012"]
    rows = _rows(whole)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    validated = {row["step"]: row for row in rows if "val_accuracy" in row}
    assert list(validated) == [6, 12]
    logged = {k: v for k, v in validated[12].items() if k.startswith("val_")}
    assert scores(whole, 12) == pytest.approx(logged, abs=1e-5)
    assert sorted(p.name for p in (whole / "samples").iterdir()) == ["000006.png", "000012.png"]
    model = whole / "checkpoints" / "000012" / "pretrained_model"
    assert {p.name for p in model.iterdir()} == {"model.safetensors", "manifest.json", "backbone"}
    said = json.loads((model / "manifest.json").read_text())
    table = json.loads((labels[1] / "manifest.json").read_text())["identity"]
    assert said["config"]["spec"]["laq_sha256"] == table["laq_sha256"]
    assert said["step"] == 12


@pytest.mark.slow
def test_twelve_steps_equal_six_sigkill_six(root: Path, labels: tuple[Path, Path], whole: Path, tmp_path: Path) -> None:
    """Losses, scores and weights bit for bit; an epoch has 18 batches."""
    out = tmp_path / "killed"
    assert _killed_after(_args(root, out, 12, "--latents", labels[1]), out, 9) == -signal.SIGKILL
    assert [c.step for c in RunDirectory.open(out).checkpoints()] == [6]
    done = hlrp("train", "--resume", out, env=ONE_THREAD)
    assert done.code == 0, done.err
    assert _rows(out) == _rows(whole)
    for name in ("training_state/lightning.safetensors", "pretrained_model/model.safetensors"):
        files = [run / "checkpoints" / "000012" / name for run in (out, whole)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_online_labels_in_two_processes_give_the_curve_of_one_with_a_table(
    root: Path, labels: tuple[Path, Path], whole: Path, tmp_path: Path
) -> None:
    """Gloo on the CPU at half the batch each, with labels made while training."""
    out = tmp_path / "two"
    two = _args(root, out, 12, "--online-laq", labels[0], "--batch-size", "2", "--devices", "2")
    done = hlrp(*two, env=ONE_THREAD)
    assert done.code == 0, done.err
    assert RunDirectory.open(out).manifest.processes == 2
    curves = [{r["step"]: r["loss"] for r in _rows(run) if "loss" in r} for run in (whole, out)]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_what_does_not_fit_leaves_nothing(root: Path, labels: tuple[Path, Path], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    table = ["--latents", labels[1]]
    other_state = [*table, "--init-from", str(whole), "model.use_state=true"]
    cases = [
        ([], ["latents.source is none", "--latents TABLE"]),
        ([*table, "--backbone", "no/such"], ["--allow-download", "--backbone"]),
        (other_state, ["state width: the checkpoint has None, the run asks for 2"]),
    ]
    done = hlrp_in_turn([_args(root, out, 5, *arguments) for arguments, _ in cases])
    for (_, mentions), found in zip(cases, done, strict=True):
        assert_user_error(found, *mentions)
    assert not out.exists()
