"""`hlrp train --trainer lerobot` with several policies, on real robot data, in two processes, without network."""

import json
from pathlib import Path

import pytest
from command import hlrp
from interruptions import assert_gone, family_of, start, wait_for_rows
from lerobot_runs import TINY_ACT, assert_loads_in_stock_lerobot, metrics_of, train_args

from hlrp.runs import RunDirectory


def test_two_processes_train_one_policy(toy_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "two"
    done = hlrp(*train_args(toy_root, run, "act", 4, *TINY_ACT, "--devices", "2", "trainer.log_freq=1"))
    assert done.code == 0, done.err
    rows = metrics_of(run)
    assert sorted(rows) == [1, 2, 3, 4]
    assert rows[4]["samples"] == 4 * 4 * 2
    assert "Effective batch size: 4 x 2 = 8" in (run / "log.txt").read_text()


@pytest.mark.slow
def test_a_run_of_which_one_process_is_killed_says_which(toy_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "two"
    process = start(train_args(toy_root, run, "act", 10_000, *TINY_ACT, "--devices", "2", "trainer.log_freq=1"))
    wait_for_rows(run, 2, process)
    family = family_of(process)
    workers = {p.environ().get("RANK"): p for p in family if p.ppid() == process.pid}
    assert sorted(workers) == ["0", "1"]
    workers["1"].kill()
    _, err = process.communicate(timeout=100)
    reason = "process 1 of 2 was killed by signal 9 (often: out of memory)"
    assert process.returncode == 1 and f"training failed: {reason}" in err
    manifest = RunDirectory.open(run).manifest
    assert (manifest.status, manifest.reason, manifest.processes) == ("failed", reason, 2)
    assert_gone(family)


SMALL = {
    "act": ("model.chunk_size=16", "model.n_action_steps=16", "model.hidden_dim=64", "model.dim_feedforward=64"),
    "diffusion": (
        "model.down_dims=[16,32]",
        "model.crop_shape=null",
        "model.n_groups=4",
        "model.num_train_timesteps=10",
    ),
    "vqbet": (
        *("model.gpt_n_layer=1", "model.gpt_n_head=2", "model.gpt_hidden_dim=32", "model.gpt_input_dim=32"),
        *("model.gpt_output_dim=32", "model.crop_shape=null", "model.n_vqvae_training_steps=10"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("policy", list(SMALL))
def test_real_robot_data_trains(g1_root: Path, tmp_path: Path, policy: str) -> None:
    run = tmp_path / policy
    more = [*SMALL[policy], "--batch-size", "2", "--episodes", "0-1"]
    done = hlrp(*train_args(g1_root, run, policy, 8, *more, workers=1))
    assert done.code == 0, done.err
    rows = metrics_of(run)
    assert max(rows) == 8
    assert rows[8]["loss"] == rows[8]["loss"], "not a number"
    latest = RunDirectory.open(run).latest()
    assert latest is not None
    assert latest.step == 8
    assert_loads_in_stock_lerobot(latest.pretrained)


@pytest.mark.slow
def test_offline_backbone_is_said_aloud(toy_root: Path, tmp_path: Path) -> None:
    env = {"TORCH_HOME": str(tmp_path / "torch")}
    run = tmp_path / "warned"
    fields = [f for f in TINY_ACT if "backbone" not in f]
    done = hlrp(*train_args(toy_root, run, "act", 1, *fields), env=env)
    assert done.code == 0, done.err
    assert "ResNet18_Weights.IMAGENET1K_V1 is not in the local cache" in done.err
    assert "random weights" in json.loads((run / "run.json").read_text())["warnings"][0]
