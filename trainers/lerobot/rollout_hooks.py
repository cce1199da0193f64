"""Rollouts of LeRobot's training loop: what is changed around them, so that they leave no trace in the training.

Nothing of LeRobot is imported at module level: the worker first chooses what LeRobot is to import.
"""

from typing import Any

from hlrp.evaluation.request import EvalRequest


def keep_rollouts_apart(script: Any) -> None:
    """Have rollouts draw from random numbers of their own, always the same, and put the training's back after them."""
    from lerobot.utils.random_utils import seeded_context

    make_env, evaluate = script.make_env, script.eval_policy_all

    def make(*args: Any, **kwargs: Any) -> Any:
        with seeded_context(EvalRequest.seed):
            return make_env(*args, **kwargs)

    def evaluate_all(*args: Any, **kwargs: Any) -> Any:
        with seeded_context(EvalRequest.seed):
            return evaluate(*args, **kwargs)

    script.make_env = make
    script.eval_policy_all = evaluate_all
