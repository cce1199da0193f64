"""How a run is executed. `get_trainer(name)` gives the class; the classes are also importable from here."""

from typing import TYPE_CHECKING

from hlrp.lazy_imports import lazy_names
from trainers.registry import TRAINERS, get_trainer

# The command line imports this package and must answer --help at once.
if TYPE_CHECKING:
    from trainers.base import BaseTrainer, RunResult
    from trainers.lerobot.trainer import LeRobotTrainer
    from trainers.lightning.trainer import LightningTrainer

__all__ = ["TRAINERS", "BaseTrainer", "LeRobotTrainer", "LightningTrainer", "RunResult", "get_trainer"]

__getattr__ = lazy_names(__name__)
