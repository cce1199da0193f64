"""Rollouts of LeRobot's training loop: they leave no trace in the training, and are told as those of our other trainer.

Nothing of LeRobot is imported at module level: the worker first chooses what LeRobot is to import.
"""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from hlrp.evaluation.environment import task_label
from hlrp.evaluation.request import EvalRequest


def keep_rollouts_apart(script: Any) -> None:
    """Have rollouts begin on the seeds of `hlrp eval`, whatever that of the run is, with random numbers of their own.

    The training's random numbers are put back after them.
    """
    from lerobot.utils.random_utils import seeded_context

    make_env, evaluate = script.make_env, script.eval_policy_all

    def make(*args: Any, **kwargs: Any) -> Any:
        with seeded_context(EvalRequest.seed):
            return make_env(*args, **kwargs)

    def evaluate_all(*args: Any, **kwargs: Any) -> Any:
        with seeded_context(EvalRequest.seed):
            return evaluate(*args, **{**kwargs, "start_seed": EvalRequest.seed})

    script.make_env = make
    script.eval_policy_all = evaluate_all


def report_rollouts(script: Any, emit: Callable[..., None]) -> None:
    """Emit ``rollouts`` with the step after which they were made, and what they found."""
    make_env, evaluate, count_step = script.make_env, script.eval_policy_all, script.MetricsTracker.step
    steps, task = 0, None

    def step(self: Any) -> None:
        nonlocal steps
        count_step(self)
        steps = self.steps

    def make(config: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal task
        task = config.task
        return make_env(config, *args, **kwargs)

    def evaluate_all(*args: Any, **kwargs: Any) -> Any:
        found = evaluate(*args, **kwargs)
        emit("rollouts", steps=steps, **_scores(task, found))
        return found

    script.MetricsTracker.step = step
    script.make_env = make
    script.eval_policy_all = evaluate_all


def _scores(task: str | None, found: Mapping[str, Any]) -> dict[str, float]:
    """What rows of the Lightning trainer have, `eval_success` and of several tasks that of each, and LeRobot's rewards.

    Args:
        task: As the environment's configuration has it.
        found: What LeRobot's `eval_policy_all` gives.
    """
    successes: dict[tuple[str, int], list[bool]] = {
        (one["task_group"], one["task_id"]): one["metrics"]["successes"] for one in found["per_task"]
    }
    scores = {"eval_success": fmean(success for each in successes.values() for success in each)}
    if len(successes) > 1:
        groups = [group for group, _ in successes]
        scores |= {f"eval_success_{task_label(task, groups, *place)}": fmean(each) for place, each in successes.items()}
    return scores | {name: found["overall"][name] for name in ("avg_sum_reward", "avg_max_reward")}
