"""Trainers by name: one line for each. A class is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

from hlrp.errors import UserError, suggest

if TYPE_CHECKING:
    from trainers.base import BaseTrainer

TRAINERS: dict[str, str] = {
    "lerobot": "trainers.lerobot_trainer:LeRobotTrainer",
    "lightning": "trainers.lightning_trainer:LightningTrainer",
}


def get_trainer(trainer_type: str) -> "type[BaseTrainer]":
    """The trainer class registered under ``trainer_type``.

    Raises:
        UserError: No trainer of that name.
    """
    if trainer_type not in TRAINERS:
        raise UserError(
            f"unknown trainer {trainer_type!r}", where="--trainer / trainer_type", fix=suggest(trainer_type, TRAINERS)
        )
    module, _, name = TRAINERS[trainer_type].partition(":")
    found: type[BaseTrainer] = getattr(import_module(module), name)
    return found
