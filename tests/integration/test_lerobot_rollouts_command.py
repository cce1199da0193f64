"""`hlrp train --trainer lerobot` with rollouts: where and on which seeds they are made, and what the run says."""

import json
from pathlib import Path

import pytest
from command import hlrp
from lerobot_runs import TINY_ACT, metrics_of, train_args
from make_dataset import make_dataset

from hlrp.runs import RunDirectory

TASK = "drawer-close-v3"


@pytest.mark.slow
def test_rollouts_while_training_are_those_of_hlrp_eval(tmp_path: Path) -> None:
    """The task, the size and the seeds are not those of LeRobot's classes, nor of the run, nor is the step."""
    root, run = tmp_path / "data", tmp_path / "run"
    make_dataset(root, length=12, action_dim=4, state_dim=4, camera="observation.images.corner2")
    seeds = [{"episode_index": n, "task": TASK, "reset_seed": 1001 + n, "frames": 12} for n in range(2)]
    recorded = {"env_type": "metaworld_light", "tasks": [TASK], "camera_name": "corner2", "image_size": 64}
    told = {"schema_version": 1, **recorded, "camera_shake": 0.05, "episodes": seeds}
    (root / "meta" / "hlrp_collect.json").write_text(json.dumps(told))
    asked = ["env.type=metaworld_light", "env.episode_length=8", "trainer.eval_freq=2", "trainer.seed=3"]
    asked += [
        "trainer.log_freq=3",
        "trainer.save_freq=2",
        "trainer.lerobot_args={eval.n_episodes: 2, eval.batch_size: 1}",
    ]
    done = hlrp(*train_args(root, run, "act", 3, *TINY_ACT, *asked))
    assert done.code == 0, done.err
    (said,) = [text for text in RunDirectory.open(run).manifest.warnings if "rollouts" in text]
    assert said == (
        f"rollouts while training: {TASK}: 1 of 2 evaluation seeds were recorded for training (1001); "
        "hlrp eval --seed 1003 or more measures unseen scenes"
    )
    rows = metrics_of(run)
    assert sorted(rows) == [2, 3] and "loss" in rows[3]
    config = json.loads((run / "checkpoints/000002/pretrained_model/train_config.json").read_text())
    assert {name: config["env"][name] for name in ("task", "image_size", "camera_shake")} == {
        "task": TASK,
        "image_size": 64,
        "camera_shake": 0.05,
    }
    again = hlrp("eval", run / "checkpoints/000002", "--episodes", "2", "--batch-size", "1", "--videos", "0", "--json")
    assert again.code == 0, again.err
    overall = json.loads(again.out)["overall"]
    assert rows[2]["eval_success"] == overall["success_rate"]
    assert rows[2]["avg_sum_reward"] == pytest.approx(overall["mean_return"], rel=1e-6)
