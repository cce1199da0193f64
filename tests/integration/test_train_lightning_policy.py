"""`hlrp train --trainer lightning --policy act` and `hlrp parity` as a user runs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import assert_user_error, hlrp, hlrp_in_turn, instead
from interruptions import family_of, start, wait_for_rows
from lerobot_runs import assert_loads_in_stock_lerobot

from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "policies"))
from tiny_runs import TINY

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PUSHT = ("env.observation_height=96", "env.observation_width=96", "env.episode_length=12")


def _keys(policy: str = "act") -> list[str]:
    return [f"model.{key}={json.dumps(value)}" for key, value in TINY[policy].items()]


def _args(root: Path, out: Path, steps: int, *more: str) -> list[str]:
    base = ["train", "--trainer", "lightning", "--policy", "act", "--dataset-root", str(root), "--device", "cpu"]
    keys = ["trainer.log_freq=1", "trainer.save_freq=6", "data.cache=ram", *_keys()]
    return instead([*base, "--steps", str(steps), "--batch-size", "4", "--output-dir", str(out), *keys], more)


def _rows(run: Path) -> list[dict[str, Any]]:
    timed = {"update_s", "data_s", "data_wait", "samples_per_s", "rss_mb", "time"}
    return [{k: v for k, v in row.items() if k not in timed} for row in RunDirectory.open(run).metrics()]


@pytest.fixture(scope="module")
def pusht_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that moves, with PushT's features: 96 pixels, two numbers to act."""
    from make_dataset import make_dataset

    return make_dataset(tmp_path_factory.mktemp("lightning") / "square", size=96, action_dim=2)


@pytest.fixture(scope="module")
def whole(pusht_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 steps in one go on frames that are transformed at random: an epoch has 12."""
    out = tmp_path_factory.mktemp("lightning") / "whole"
    done = hlrp(*_args(pusht_root, out, 14, "--augment"), env=ONE_THREAD)
    assert done.code == 0, done.err
    assert f"hlrp serve {out}" in done.out, "nothing says of what simulator the data are"
    return out


def test_rollouts_on_the_way_change_no_number(whole: Path, pusht_root: Path, tmp_path: Path) -> None:
    """Two checkpoints are rolled out between the steps; losses, order and weights stay those of the run without."""
    out = tmp_path / "rolled"
    asked = ["trainer.eval_freq=7", "trainer.eval_episodes=2", "env.type=pusht", *PUSHT]
    done = hlrp(*_args(pusht_root, out, 14, "--augment", *asked), env=ONE_THREAD)
    assert done.code == 0 and f"hlrp eval {out}" in done.out, done.err
    rows = _rows(out)
    scored = [row for row in rows if "eval_success" in row]
    assert [row["step"] for row in scored] == [7, 14]
    assert all(0 <= row["eval_success"] <= 1 for row in scored)
    assert [row for row in rows if "eval_success" not in row] == _rows(whole)
    for step in ("000007", "000014"):
        results = json.loads((out / "eval" / f"step_{step}" / "results.json").read_text())
        assert results["overall"]["episodes"] == 2
    weights = [run / "checkpoints/000014/pretrained_model/model.safetensors" for run in (out, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_unknown_task_of_the_rollouts_is_said_before_the_start(pusht_root: Path, tmp_path: Path) -> None:
    asked = ["trainer.eval_freq=7", "env.type=metaworld_light", "env.task=button-pres-v3"]
    assert_user_error(hlrp(*_args(pusht_root, tmp_path / "x", 14, *asked)), "env.task", "button-press-v3")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_resume_repeats_the_uninterrupted_run(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for step in ("000012", "000014"):
        shutil.rmtree(run / "checkpoints" / step)
    done = hlrp("train", "--resume", run, env=ONE_THREAD)
    assert done.code == 0, done.err
    assert _rows(run) == _rows(whole)
    weights = "checkpoints/000014/pretrained_model/model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()


@pytest.mark.slow
def test_two_processes_at_half_the_batch_give_the_curve_of_one(pusht_root: Path, tmp_path: Path) -> None:
    """Gloo on the CPU, over the end of an epoch. No dropout and VAE: nothing is drawn at random. One action a chunk:

    ACT's loss is a mean over the actions inside the episode, which two halves of a batch have in different numbers.
    """
    quiet = ["model.dropout=0.0", "model.use_vae=false", "model.chunk_size=1", "model.n_action_steps=1"]
    split = ["trainer.save_freq=14", "trainer.eval_steps=7", "trainer.eval_split=0.5", *quiet]
    for name, more in {"one": ["--batch-size", "4"], "two": ["--batch-size", "2", "--devices", "2"]}.items():
        done = hlrp(*_args(pusht_root, tmp_path / name, 14, *split, *more), env=ONE_THREAD)
        assert done.code == 0, done.err
    rows = [_rows(tmp_path / name) for name in ("one", "two")]
    for key in ("loss", "grad_norm", "val_loss"):
        curves = [[row[key] for row in each if key in row] for each in rows]
        assert len(curves[0]) == (2 if key == "val_loss" else 14)
        # Steps that round otherwise lead to weights a little apart: of a norm of gradients 2e-4 was seen.
        assert curves[1] == pytest.approx(curves[0], rel={"loss": 1e-5, "val_loss": 1e-4}.get(key, 1e-3)), key
    assert RunDirectory.open(tmp_path / "two").manifest.processes == 2


@pytest.mark.slow
def test_stock_lerobot_eval_acts_as_ours(whole: Path, tmp_path: Path) -> None:
    """`lerobot-eval`, which knows nothing of this project, gets our episodes' rewards out of the folder."""
    keys = ["--env", "pusht", "--episodes", "2", "--videos", "0", "--output", str(tmp_path / "eval"), "--json"]
    done = hlrp("eval", whole, *keys, *PUSHT, env=ONE_THREAD)
    assert done.code == 0, done.err
    ours = [episode["return"] for episode in done.json()["episodes"]]
    arguments = {
        "policy.path": whole / "checkpoints/000014/pretrained_model",
        "policy.device": "cpu",
        "env.type": "pusht",
        "env.observation_height": 96,
        "env.observation_width": 96,
        "env.episode_length": 12,
        "eval.n_episodes": 2,
        "eval.batch_size": 2,
        "eval.use_async_envs": "false",
        "output_dir": tmp_path / "stock",
    }
    argv = [str(Path(sys.executable).with_name("lerobot-eval")), *(f"--{k}={v}" for k, v in arguments.items())]
    stock = subprocess.run(argv, capture_output=True, text=True, timeout=300, env=os.environ | ONE_THREAD, check=False)
    assert stock.returncode == 0, stock.stderr[-2000:]
    found = json.loads((tmp_path / "stock/eval_info.json").read_text())["per_task"][0]["metrics"]["sum_rewards"]
    assert ours == pytest.approx(found, rel=1e-6)
    assert len(set(ours)) == 2


@pytest.mark.slow
def test_parity_with_lerobots_process_over_the_end_of_an_epoch(pusht_root: Path, tmp_path: Path) -> None:
    """14 steps of which 12 are an epoch, LeRobot with a data worker, Lightning from the frame store."""
    keys = ["--steps", "14", "--batch-size", "4", "--cache", "ram", "data.num_workers=1", *_keys()]
    keys += ["--output-dir", str(tmp_path / "runs")]
    done = hlrp("parity", "--policy", "act", "--dataset-root", pusht_root, *keys, "--json", env=ONE_THREAD)
    assert done.code == 0, done.err + done.out
    found = done.json()
    assert found["worst"] <= 1e-5
    assert len(found["loss"]) == 14 and sorted(found["weights"]) == ["14", "7"]
    # And the two act alike: same seeds, same successes, rewards up to what rounding moves.
    keys = ["--env", "pusht", "--episodes", "2", "--videos", "0", "--output", str(tmp_path / "eval"), "--json"]
    both = tmp_path / "runs" / "lightning", "--compare", tmp_path / "runs" / "lerobot"
    done = hlrp("eval", *both, *keys, *PUSHT, env=ONE_THREAD)
    assert done.code == 0, done.err
    other = json.loads((tmp_path / "eval/compared/results.json").read_text())
    for mine, theirs in zip(done.json()["episodes"], other["episodes"], strict=True):
        assert (mine["seed"], mine["success"]) == (theirs["seed"], theirs["success"])
        assert mine["return"] == pytest.approx(theirs["return"], rel=1e-3)


def test_mistakes_are_refused_before_lerobot_and_lightning_are_imported(pusht_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cases = [
        (_args(pusht_root, out, 2, "model.chunk_sice=3"), ["chunk_sice", "chunk_size"]),
        (_args(pusht_root, out, 2, "--init-from", str(tmp_path / "none")), ["none", "--init-from"]),
        (_args(pusht_root, out, 2, "--push-to-hub", "mine"), ["push_to_hub"]),
        (["train", "--model", "laq", "--dataset-root", str(pusht_root), "trainer.ema_decay=0.9"], ["ema_decay"]),
    ]
    for found, (_, mentions) in zip(hlrp_in_turn([arguments for arguments, _ in cases]), cases, strict=True):
        assert_user_error(found, *mentions)
        assert not found.heavy & {"lerobot", "lightning"}, found.heavy
    assert not out.exists()


@pytest.mark.slow
def test_a_sharded_run_is_killed_goes_on_in_one_process_and_loads_in_stock_lerobot(
    pusht_root: Path, tmp_path: Path
) -> None:
    """Its numbers are looked at in `tests/trainers/test_sharded.py`."""
    out = tmp_path / "run"
    sharded = ["--batch-size", "2", "--devices", "2", "trainer.strategy=fsdp", "trainer.ema_decay=0.9"]
    process = start(_args(pusht_root, out, 20, *sharded), ONE_THREAD)
    wait_for_rows(out, 9, process)
    for each in [*family_of(process), process]:
        each.kill()
    process.communicate()
    done = hlrp("train", "--resume", out, "--devices", "1", env=ONE_THREAD)
    assert done.code == 0, done.err
    directory = RunDirectory.open(out)
    assert (directory.manifest.status, directory.manifest.processes) == ("finished", 1)
    assert [row["step"] for row in directory.metrics()] == list(range(1, 21))
    assert {row["samples"] / row["step"] for row in directory.metrics()} == {4}
    assert_loads_in_stock_lerobot(out / "checkpoints" / "last" / "pretrained_model")
