"""Trainers by name: one line for each, and those of other packages. A class is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hlrp.config.trainer_names import other_trainers
from hlrp.errors import UserError, suggest

if TYPE_CHECKING:
    from trainers.base import BaseTrainer

TRAINERS: dict[str, str] = {
    "lerobot": "trainers.lerobot.trainer:LeRobotTrainer",
    "lightning": "trainers.lightning.trainer:LightningTrainer",
}


def get_trainer(trainer_type: str) -> "type[BaseTrainer]":
    """The trainer class registered under ``trainer_type``.

    Raises:
        UserError: No trainer of that name.
    """
    known = TRAINERS if trainer_type in TRAINERS else {**other_trainers(), **TRAINERS}
    if trainer_type not in known:
        raise UserError(
            f"unknown trainer {trainer_type!r}", where="--trainer / trainer_type", fix=suggest(trainer_type, known)
        )
    module, _, name = known[trainer_type].partition(":")
    try:
        trainer: type[BaseTrainer] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        if trainer_type in TRAINERS:
            raise
        raise UserError(
            f"trainer {trainer_type!r} cannot be imported: {error}",
            where=known[trainer_type],
            fix="install what it needs, or use another trainer",
        ) from error
    return trainer


def check_keys(run: Any) -> None:
    """Refuse every key of a run, an own one or an `OtherRun`, that is given but that its trainer does not act on.

    Raises:
        UserError: Naming the first such key; or there is no such trainer.
    """
    from hlrp.config import OtherRun, refuse_unused, refuse_unused_by_other

    if isinstance(run, OtherRun):
        refuse_unused_by_other(run, get_trainer(run.trainer_type).obeys)
    else:
        refuse_unused(run)
