"""Rollouts while LeRobot's own loop trains: what they leave of the training, and what is told of them."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import Native, train_natively

from hlrp.evaluation.environment import task_label
from trainers.lerobot.rollout_hooks import keep_rollouts_apart, report_rollouts

TASKS = ("drawer-close-v3", "button-press-v3")
ROLLED_OUT = {
    "env_eval_freq": 2,
    "env.type": "metaworld_light",
    "env.task": ",".join(TASKS),
    "env.image_size": 64,
    "env.episode_length": 5,
    "eval.n_episodes": 2,
    "eval.batch_size": 1,
    "seed": 7,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that moves, with Meta-World's features."""
    from make_dataset import make_dataset

    folder = tmp_path_factory.mktemp("data") / "square"
    return make_dataset(folder, length=12, action_dim=4, state_dim=4, camera="observation.images.corner2")


def _train(root: Path, out: Path, told: list[dict[str, Any]], **more: Any) -> Native:
    """Three steps of a policy that acts by drawing noise."""
    from lerobot.scripts import lerobot_train

    evaluate = lerobot_train.eval_policy_all

    def watched(*args: Any, **kwargs: Any) -> Any:
        told.append({"start_seed": kwargs["start_seed"]})
        return evaluate(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lerobot_train, "make_env", lerobot_train.make_env)
        patch.setattr(lerobot_train, "eval_policy_all", watched)
        patch.setattr(lerobot_train.MetricsTracker, "step", lerobot_train.MetricsTracker.step)
        keep_rollouts_apart(lerobot_train)
        report_rollouts(lerobot_train, lambda event, **fields: told.append({"event": event, **fields}))
        return train_natively("diffusion", root, out, patch, steps=3, **{"policy.num_inference_steps": 2}, **more)


def test_rollouts_change_no_step_and_are_told_as_those_of_lightning(root: Path, tmp_path: Path) -> None:
    """The step after them has the very loss of a run without; they have the step after which they were made."""
    told: list[dict[str, Any]] = []
    rolled, plain = (
        _train(root, tmp_path / "rolled", told, **ROLLED_OUT),
        _train(root, tmp_path / "plain", told, seed=7),
    )
    assert rolled.loss == plain.loss and len(plain.loss) == 3
    began, found = told
    assert began == {"start_seed": 1000}, "as `hlrp eval`, whatever the seed of the run"
    rewards = [found.pop(name) for name in ("avg_sum_reward", "avg_max_reward")]
    assert rewards[0] > rewards[1] > 0
    names = ["eval_success", *(f"eval_success_{task}" for task in TASKS)]
    assert found == {"event": "rollouts", "steps": 2, **dict.fromkeys(names, 0.0)}


@pytest.mark.parametrize(
    ("task", "groups", "expected"),
    [
        ("PushT-v0", ["pusht"], ["PushT-v0"]),
        ("libero_goal", ["libero_goal", "libero_goal"], ["libero_goal_0", "libero_goal_1"]),
        ("libero_goal_0,libero_10_1", ["libero_goal", "libero_10"], ["libero_goal_0", "libero_10_1"]),
        (None, ["a", "b"], ["a_0", "b_1"]),
    ],
)
def test_a_task_has_one_name_in_both_trainers(task: str | None, groups: list[str], expected: list[str]) -> None:
    assert [task_label(task, groups, group, number) for number, group in enumerate(groups)] == expected
