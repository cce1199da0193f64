"""Training and labelling on a dataset that comes as it is read, by the installed command."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from command import Finished, assert_user_error, hlrp, hlrp_argv
from interruptions import wait_for_rows

from hlrp.data.dataset_info import read_dataset
from hlrp.data.streaming import Stream

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TINY = ("model.preset=tiny", "model.image_size=24", "model.codebook_size=8", "model.code_seq_len=2")


@pytest.fixture
def bare(toy_root: Path, tmp_path: Path) -> Path:
    """A folder with the `meta/` of a dataset alone, which says where the rest is."""
    folder = tmp_path / "toy"
    shutil.copytree(toy_root / "meta", folder / "meta")
    Stream(folder, f"file://{toy_root}").write_mark()
    return folder


def _words(root: Path, out: Path, steps: int) -> list[str]:
    base = ["train", "--model", "laq", "--dataset-root", str(root), "--device", "cpu", "--batch-size", "3"]
    keys = ["trainer.log_freq=1", "trainer.save_freq=20", "data.num_workers=1", "data.offset_seconds=0.1"]
    return [*base, "--steps", str(steps), "--output-dir", str(out), *keys, "data.streaming=true", *TINY]


def _train(root: Path, out: Path, steps: int) -> Finished:
    return hlrp(*_words(root, out, steps), env=ONE_THREAD)


def _table(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".json")}


def test_a_quantizer_is_trained_and_used_on_what_comes(bare: Path, toy_root: Path, tmp_path: Path) -> None:
    done = _train(bare, tmp_path / "run", 3)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run/run.json").read_text())["dataset"]
    assert record["fingerprint"] == read_dataset(None, toy_root).fingerprint()
    assert len([*(bare / "videos").rglob("*.mp4")]) == 1
    shutil.rmtree(bare / "videos")
    label = ("precompute-latents", "--laq", tmp_path / "run", "--device", "cpu", "--json")
    streamed = hlrp(*label, "--dataset-root", bare, "--streaming", "--output", tmp_path / "streamed", env=ONE_THREAD)
    usual = hlrp(*label, "--dataset-root", toy_root, "--output", tmp_path / "usual", env=ONE_THREAD)
    assert streamed.code == usual.code == 0, streamed.err + usual.err
    assert _table(tmp_path / "streamed") == _table(tmp_path / "usual") and len(_table(tmp_path / "usual")) >= 2


def test_mistakes_are_one_message(bare: Path, tmp_path: Path) -> None:
    label = ("precompute-latents", "--laq", tmp_path, "--streaming")
    assert_user_error(hlrp(*label, "--dataset", "me/nowhere"), "nothing is downloaded unless asked", "--allow-download")
    assert_user_error(hlrp(*label, "--dataset-root", bare, "--write-column", tmp_path / "new"), "needs all tables")
    without = hlrp("precompute-latents", "--laq", tmp_path, "--dataset-root", bare, "--cache-limit-gb", "3")
    assert_user_error(without, "no effect without --streaming")


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(bare: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _train(bare, whole, 40).code == 0
    process = subprocess.Popen(hlrp_argv(*_words(bare, parts, 40)), start_new_session=True, env=os.environ | ONE_THREAD)
    wait_for_rows(parts, 22, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (parts / "checkpoints/000040").exists()
    shutil.rmtree(bare / "videos")
    resumed = hlrp("train", "--resume", parts, env=ONE_THREAD)
    assert resumed.code == 0, resumed.err
    weights = [run / "checkpoints/000040" for run in (whole, parts)]
    files = [sorted(p.relative_to(w) for p in w.rglob("*.safetensors")) for w in weights]
    assert files[0] == files[1] and files[0]
    assert [f for f in files[0] if (weights[0] / f).read_bytes() != (weights[1] / f).read_bytes()] == []
