"""Policies to which LeRobot has added PEFT's adapters: a checkpoint holds these, and where the policy beneath is."""

import sys
from pathlib import Path
from typing import Any

from hlrp.compat import complete_weights
from hlrp.errors import WorkError
from hlrp.runs.checkpoints import pretrained_problem

ADAPTERS = "adapter_config.json"


def is_adapted(policy: Any) -> bool:
    """Whether a policy is PEFT's model around one of LeRobot's."""
    peft = sys.modules.get("peft")  # it is imported if there is one
    return peft is not None and isinstance(policy, peft.PeftModel)


def save_weights(policy: Any, folder: Path) -> None:
    """Write weights and configuration of a policy; of one with adapters, the adapters and the policy's configuration.

    Args:
        policy: LeRobot's, or PEFT's around it.
        folder: `pretrained_model/`.
    """
    policy.save_pretrained(folder)
    add_configuration(policy, folder)


def add_configuration(policy: Any, folder: Path) -> None:
    """Write the policy's configuration beside adapters.

    PEFT does not know it, and LeRobot's loop writes it only in a run that has made the adapters itself.
    """
    if is_adapted(policy):
        policy.config.save_pretrained(folder)


def load_saved(config: Any) -> Any:
    """The policy of a checkpoint, with its adapters if it has any.

    Args:
        config: LeRobot's configuration of it, with `pretrained_path`.

    Raises:
        UserError: The weights do not fit.
    """
    from lerobot.policies.factory import get_policy_class

    policy_class, folder = get_policy_class(config.type), Path(config.pretrained_path)
    if not (folder / ADAPTERS).is_file():
        with complete_weights(folder):
            return policy_class.from_pretrained(folder, config=config)
    from peft import PeftConfig, PeftModel

    adapters = PeftConfig.from_pretrained(str(folder))
    beneath = Path(str(adapters.base_model_name_or_path))
    with complete_weights(beneath):
        policy = policy_class.from_pretrained(str(beneath), config=config)
    return PeftModel.from_pretrained(policy, str(folder), config=adapters, is_trainable=True)


def require_loadable(folder: Path) -> None:
    """Refuse a `pretrained_model` folder, just written, that could not be loaded.

    Raises:
        WorkError: It lacks a file.
    """
    if problem := pretrained_problem(folder):
        raise WorkError(f"what was saved of the policy could not be loaded again: {problem}")
