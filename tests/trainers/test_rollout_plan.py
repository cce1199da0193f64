"""The simulator of a run's rollouts: what the run leaves open of it, its data say; and seeds that were recorded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hlrp.config import load_config
from hlrp.data.dataset_info import read_dataset
from trainers.lerobot.command import build_arguments
from trainers.rollout_plan import LEROBOT_EPISODES, plan_rollouts, rollout_warnings

RECORDED = {"env_type": "metaworld_light", "tasks": ["drawer-close-v3"], "camera_name": "corner2", "image_size": 64}
LIGHT = ("trainer.eval_freq=10", "env.type=metaworld_light")


@pytest.fixture
def recorded(toy_root: Path, tmp_path: Path) -> Path:
    """Two episodes, as if `hlrp collect` had recorded them with a camera held by hand."""
    root = tmp_path / "recorded"
    shutil.copytree(toy_root, root)
    seeds = [{"episode_index": n, "task": "drawer-close-v3", "reset_seed": 1007 + n, "frames": 24} for n in range(2)]
    told = {"schema_version": 1, **RECORDED, "camera_shake": 0.05, "episodes": seeds}
    (root / "meta" / "hlrp_collect.json").write_text(json.dumps(told))
    return root


def _run(root: Path, trainer: str, *overrides: str) -> Any:
    given = [f"trainer_type={trainer}", "model.policy_type=act", f"data.root={root}", *overrides]
    return load_config(None, given).config


def _environment(root: Path, *overrides: str) -> dict[str, str]:
    """What LeRobot is told of the simulator."""
    listed = build_arguments(_run(root, "lerobot", *overrides), read_dataset(None, root), Path("/runs/x"), 5, None)
    said = dict(text.removeprefix("--env.").split("=", 1) for text in listed if text.startswith("--env."))
    assert said.pop("type") == overrides[1].removeprefix("env.type=")
    return said


def test_lerobot_rolls_out_where_the_data_were_recorded(recorded: Path, toy_root: Path) -> None:
    said = {"task": "drawer-close-v3", "image_size": "64", "camera_name": "corner2", "camera_shake": "0.05"}
    assert _environment(recorded, *LIGHT) == said
    given = ("env.task=button-press-v3", "env.camera_shake=0", "env.episode_length=7")
    wins = {"task": "button-press-v3", "camera_shake": "0", "episode_length": "7"}
    assert _environment(recorded, *LIGHT, *given) == said | wins
    # Recorded by something else: its pictures alone say how large they are.
    assert _environment(toy_root, *LIGHT) == {"task": "button-press-v3", "image_size": "64"}
    assert _environment(recorded, "trainer.eval_freq=10", "env.type=pusht") == {"task": "PushT-v0"}


def test_of_a_mixture_the_first_source_wins_and_all_seeds_count(recorded: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(recorded, other)
    meta = json.loads((other / "meta" / "hlrp_collect.json").read_text())
    meta["episodes"][0]["reset_seed"], meta["image_size"] = 1001, 32
    (other / "meta" / "hlrp_collect.json").write_text(json.dumps(meta))
    sources = f"data.sources=[{{root: {recorded}}}, {{root: {other}}}]"
    run: Any = load_config(None, ["trainer_type=lerobot", "model.policy_type=act", sources, *LIGHT]).config
    plan = plan_rollouts(run, read_dataset(None, recorded))
    assert plan is not None and plan.env_fields["image_size"] == 64
    assert plan.recorded_seeds == {"drawer-close-v3": {1001, 1007, 1008}}


def test_rollouts_on_recorded_seeds_are_a_warning_of_the_run(recorded: Path) -> None:
    from lerobot.configs.default import EvalConfig

    assert EvalConfig().n_episodes == LEROBOT_EPISODES
    begin, end = "rollouts while training: drawer-close-v3: ", "; hlrp eval --seed 1009 or more measures unseen scenes"
    what = "evaluation seeds were recorded for training"
    both = f"{begin}2 of 50 {what} (1007, 1008){end}"
    assert rollout_warnings(_run(recorded, "lerobot", *LIGHT)) == [both]
    fewer = _run(recorded, "lerobot", *LIGHT, "trainer.lerobot_args={eval.n_episodes: 8}")
    assert rollout_warnings(fewer) == [f"{begin}1 of 8 {what} (1007){end}"]
    assert rollout_warnings(_run(recorded, "lightning", *LIGHT)) == [f"{begin}2 of 10 {what} (1007, 1008){end}"]
    assert rollout_warnings(_run(recorded, "lightning", *LIGHT, "trainer.eval_episodes=7")) == []
    assert rollout_warnings(_run(recorded, "lightning")) == []
