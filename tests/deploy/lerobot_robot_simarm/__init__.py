"""A simulated arm as a plugin of LeRobot's: `--robot.type=simarm`."""

from .config_simarm import SimArmConfig
from .simarm import SimArm

__all__ = ["SimArm", "SimArmConfig"]
