"""Base class of the policies that Lightning trains; what is said where an observation lacks what one reads."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from hlrp.config import FromConfig
from hlrp.runtime.policy import refuse_incomplete


@contextmanager
def complete(observation: dict[str, Any], preprocessor: Any, config: Any) -> Iterator[None]:
    """Inside, where a policy fails at an observation that lacks what it reads, that is a UserError.

    Only then: some policies do without a camera, and between chunks most read nothing.

    Args:
        observation: As it is given, before the preprocessor.
        preprocessor: LeRobot's, whose steps may rename.
        config: LeRobot's configuration of the policy.

    Raises:
        UserError: Naming what is missing, and what is there.
    """
    try:
        yield
    except (LookupError, ValueError):
        renamed = {old: new for step in preprocessor.steps for old, new in getattr(step, "rename_map", {}).items()}
        given = [renamed.get(name, name) for name in observation]
        refuse_incomplete(given, [name for name in config.input_features if "empty_camera" not in name])
        raise


class Policy(LightningModule, FromConfig, ABC):
    """A LightningModule that acts: it is trained by any Trainer, and ends as a folder that LeRobot loads."""

    @abstractmethod
    def select_action(self, observation: dict[str, Any]) -> Tensor:
        """The next action for an observation, in the robot's own units.

        Args:
            observation: Keys as in the dataset; pictures float32 `[B, C, H, W]` in [0, 1], all else `[B, ...]`.

        Returns:
            float32 `[B, A]`.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget the episode: what was planned or seen in it does not count for the next one."""

    @abstractmethod
    def save_pretrained(self, folder: Path | str) -> None:
        """Write a `pretrained_model` folder: `config.json`, `model.safetensors` and both processors."""
