"""Base class of the policies that Lightning trains."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from hlrp.config import FromConfig


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
