"""The simulator in which either trainer rolls out a policy: what a run leaves open of it, its data say."""

from pathlib import Path

from hlrp.config import LightningRun
from hlrp.data.dataset_info import DatasetInfo, find_dataset
from hlrp.evaluation.environment_plan import (
    EnvironmentPlan,
    recorded_environment,
    seeds_of,
    settle_environment,
    side_of_pictures,
    split_tasks,
    warnings_of_seeds,
)
from hlrp.evaluation.plan import trained_image_size
from hlrp.evaluation.request import EvalRequest
from trainers.policy_checks import Run, policy_of, start_of
from trainers.policy_labels import foundation_of

LEROBOT_EPISODES = 50
"""Of each task in LeRobot's rollouts, where `eval.n_episodes` is not given: its own default."""


def plan_rollouts(run: Run, dataset: DatasetInfo | None) -> EnvironmentPlan | None:
    """The environment as `hlrp eval` of the run has it, without importing LeRobot; None: the run makes no rollouts.

    Args:
        run: A run of a policy.
        dataset: The local dataset, or the mixture as one; None if there is none yet, or its pictures do not matter.

    Raises:
        UserError: The simulator does not know the task, or is not installed.
    """
    if run.env is None or not run.trainer.eval_freq:
        return None
    data = run.data
    found = [find_dataset(data.repo_id, data.root), *(find_dataset(s.repo_id, s.root) for s in data.sources)]
    roots = [root for root in found if root is not None]
    plan = settle_environment(
        run.env.type,
        run.env.env_fields,
        split_tasks(run.env.task or ""),
        [recorded_environment(root) for root in roots],
        _image_size(run, dataset),
    )
    plan.recorded_seeds = seeds_of(roots)
    return plan


def _image_size(run: Run, dataset: DatasetInfo | None) -> int | None:
    """Side of the square pictures that the policy gets."""
    model = policy_of(run)
    if model.init_from and not foundation_of(model):
        return trained_image_size(start_of(model.init_from)) if Path(model.init_from).exists() else None
    if dataset is None:
        return None
    shapes = [dataset.features[camera]["shape"] for camera in run.data.cameras or dataset.cameras]
    return side_of_pictures({(height, width) for height, width, _ in shapes})


def rollout_warnings(run: Run) -> list[str]:
    """For each task whose rollouts begin as recorded episodes did, what to do about it.

    Raises:
        UserError: As for `plan_rollouts`.
    """
    plan = plan_rollouts(run, None)
    if plan is None:
        return []
    if isinstance(run, LightningRun):
        episodes = run.trainer.eval_episodes
    else:
        episodes = run.trainer.lerobot_args.get("eval.n_episodes", LEROBOT_EPISODES)
    # What is no number LeRobot refuses.
    said = warnings_of_seeds(plan, EvalRequest.seed, episodes) if isinstance(episodes, int) else []
    return [f"rollouts while training: {line}" for line in said]
