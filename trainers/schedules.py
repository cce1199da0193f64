"""Schedules of the learning rate beside the length of a run."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from hlrp.catalog import FieldInfo
from hlrp.config import LeRobotRun, LightningRun
from hlrp.ranks import is_first_process

_DECAY, _PRESET = "num_decay_steps", "scheduler_decay_steps"


def warn_of_early_decay(
    run: LeRobotRun | LightningRun, frames: int | None, fields: Mapping[str, Any], known: Mapping[str, FieldInfo] | None
) -> None:
    """Say where the learning rate has its lowest value for more than half of a run.

    LeRobot shortens a decay that is longer than the run, but does not stretch one that is shorter.

    Args:
        run: A run of a policy.
        frames: Of its data; None: not here yet.
        fields: Of the policy's class, as given.
        known: The class's own, where the list of policies is at hand.
    """
    if run.trainer.max_epochs is not None and frames is None:
        return
    steps = run.trainer.total_steps(frames or 0)
    if run.trainer.max_epochs is not None and isinstance(run, LightningRun):
        steps //= run.trainer.accumulate_grad_batches
    where, ends = _decay_end(run, fields, known)
    if isinstance(ends, int) and 2 * ends < steps:
        Console(stderr=True, highlight=False, soft_wrap=True, quiet=not is_first_process()).print(
            f"warning: the learning rate has decayed at step {ends} of {steps} and stays at its lowest value for the "
            f"rest: give {where} the steps of the run",
            style="yellow",
        )


def _decay_end(
    run: LeRobotRun | LightningRun, fields: Mapping[str, Any], known: Mapping[str, FieldInfo] | None
) -> tuple[str, Any]:
    """The key that says when the decay ends, and what it says."""
    if isinstance(run, LightningRun):
        if run.trainer.scheduler is not None:
            return f"trainer.scheduler.{_DECAY}", run.trainer.scheduler.get(_DECAY)
    elif run.trainer.lerobot_args.get("use_policy_training_preset") is False:
        return f"trainer.lerobot_args.scheduler.{_DECAY}", run.trainer.lerobot_args.get(f"scheduler.{_DECAY}")
    default = known[_PRESET].default if known is not None and _PRESET in known else ""
    return f"model.{_PRESET}", fields.get(_PRESET, int(default) if default.isdecimal() else None)
