"""How a run is executed. `get_trainer(name)` gives the class; the classes are also importable from here."""

from typing import TYPE_CHECKING, Any

from trainers.registry import TRAINERS, get_trainer

if TYPE_CHECKING:
    from trainers.base import BaseTrainer, RunResult
    from trainers.lerobot.trainer import LeRobotTrainer
    from trainers.lightning.trainer import LightningTrainer

__all__ = ["TRAINERS", "BaseTrainer", "LeRobotTrainer", "LightningTrainer", "RunResult", "get_trainer"]


def __getattr__(name: str) -> Any:
    # Resolved on first use: the command line imports this package and must answer --help at once.
    if name in ("BaseTrainer", "RunResult"):
        from trainers import base

        return getattr(base, name)
    if name == "LeRobotTrainer":
        from trainers.lerobot.trainer import LeRobotTrainer

        return LeRobotTrainer
    if name == "LightningTrainer":
        from trainers.lightning.trainer import LightningTrainer

        return LightningTrainer
    raise AttributeError(f"module 'trainers' has no attribute {name!r}")
