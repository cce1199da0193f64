"""Rollouts while LeRobot's own loop trains: what they leave of the training, and what is told of them."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import Native, train_natively

from trainers.lerobot.rollout_hooks import keep_rollouts_apart

ROLLED_OUT = {
    "env_eval_freq": 2,
    "env.type": "pusht",
    "env.observation_height": 96,
    "env.observation_width": 96,
    "env.episode_length": 5,
    "eval.n_episodes": 2,
    "eval.batch_size": 1,
}


def _train(root: Path, out: Path, **more: Any) -> Native:
    """Three steps of a policy that acts by drawing noise."""
    from lerobot.scripts import lerobot_train

    with pytest.MonkeyPatch.context() as patch:
        for name in ("make_env", "eval_policy_all"):
            patch.setattr(lerobot_train, name, getattr(lerobot_train, name))
        keep_rollouts_apart(lerobot_train)
        return train_natively("diffusion", root, out, patch, steps=3, **{"policy.num_inference_steps": 2}, **more)


def test_rollouts_draw_nothing_from_the_training(tmp_path: Path) -> None:
    """The step after rollouts has the very loss of a run without them."""
    from make_dataset import make_dataset

    root = make_dataset(tmp_path / "square", size=96, action_dim=2, length=12)
    rolled, plain = _train(root, tmp_path / "rolled", **ROLLED_OUT), _train(root, tmp_path / "plain")
    assert list((tmp_path / "rolled" / "eval").iterdir())
    assert rolled.loss == plain.loss and len(plain.loss) == 3
