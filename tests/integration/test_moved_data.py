"""Runs of both trainers whose dataset was moved after they began: they go on where it lies now, and with no other."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import assert_user_error, hlrp, hlrp_in_turn, instead
from lerobot_runs import TINY_ACT, train_args
from make_dataset import make_dataset

from hlrp.config import load_config
from hlrp.evaluation.plan import dataset_roots
from hlrp.runs import RunDirectory
from trainers import get_trainer

TINY_LAQ = ["model.preset=tiny", "model.image_size=24", "model.codebook_size=8", "data.offset_seconds=0.1"]
OFTEN = ["trainer.log_freq=1", "trainer.save_freq=2"]


def _args(trainer: str, root: Path, out: Path) -> list[str]:
    if trainer == "lerobot":
        return train_args(root, out, "act", 4, *TINY_ACT, *OFTEN)
    args = ["train", "--model", "laq", "--dataset-root", str(root), "--output-dir", str(out), "--device", "cpu"]
    return [*args, "--steps", "4", "--batch-size", "3", "data.num_workers=0", *TINY_LAQ, *OFTEN]


def _rows(run: Path) -> list[dict[str, Any]]:
    timed = {"update_s", "data_s", "data_wait", "samples_per_s", "rss_mb", "gpu_mem_gb", "time"}
    return [{k: v for k, v in row.items() if k not in timed} for row in RunDirectory.open(run).metrics()]


@pytest.mark.parametrize("trainer", ["lightning", pytest.param("lerobot", marks=pytest.mark.slow)])
def test_a_run_goes_on_where_its_dataset_lies_now(trainer: str, tmp_path: Path) -> None:
    before, now = make_dataset(tmp_path / "the data" / "mw", episodes=2, length=16), tmp_path / "the data" / "mw moved"
    other = make_dataset(tmp_path / "other", episodes=2, length=17)
    run = tmp_path / "a run"
    command = _args(trainer, before, run)
    done = hlrp(*command)
    assert done.code == 0, done.err
    follows = {"lerobot": ["eval", run], "lightning": ["laq-report", run, "--dataset-root", before]}
    assert done.out.splitlines()[-1] == f"next        {shlex.join(['hlrp', *map(str, follows[trainer])])}"
    whole = _rows(run)
    assert [row["step"] for row in whole if "loss" in row] == [1, 2, 3, 4]
    shutil.rmtree(run / "checkpoints" / "000004")
    before.rename(now)
    there, elsewhere = (["--dataset-root", root] for root in ("the data/mw moved", str(other)))
    resume, auto = ["train", "--resume", str(run)], ["--resume", "auto", "--dry-run"]
    commands = [
        resume,
        [*resume, *elsewhere],
        [*resume, *there, "--lr", "1"],
        [*resume, *there, "--dry-run"],
        [*instead(command, there), *auto],
        [*instead(command, elsewhere), *auto],
    ]
    gone, wrong, setting, dry, again, refused = hlrp_in_turn(commands, cwd=tmp_path)
    assert_user_error(gone, f"there is no dataset folder {before}", f"hlrp train --resume '{run}' --dataset-root DIR")
    assert_user_error(wrong, "the data have changed since the run began", str(other))
    assert_user_error(setting, "a resumed run keeps its settings; --lr cannot be changed")
    assert (dry.code, again.code) == (0, 0) and dry.out == again.out and str(now) in dry.out, dry.err + again.err
    assert_user_error(refused, f"data.root is {before} there, {other} here")
    assert RunDirectory.open(run).manifest.dataset.root == str(before), "nothing is written by a look"
    done = hlrp(*resume, *there, cwd=tmp_path)
    assert done.code == 0, done.err
    assert _rows(run) == whole
    directory = RunDirectory.open(run)
    assert load_config(run / "config.yaml").config.data.root == now
    assert (directory.manifest.dataset.root, directory.manifest.dataset.episodes) == (str(now), 2)
    latest = directory.latest()
    assert latest is not None and dataset_roots(latest.pretrained, directory) == [now]
    if trainer == "lerobot":
        assert json.loads((latest.pretrained / "train_config.json").read_text())["dataset"]["root"] == str(now)
        assert f"--dataset.root={now}" in directory.manifest.command
    plain: Any = load_config(run / "config.yaml").config
    assert str(now) in get_trainer(trainer).dry_run(plain, resume=directory, steps=6)  # type: ignore[attr-defined]
