"""Settings of the simulated arm; what a real one gets wrong can be set here."""

from dataclasses import dataclass, field
from pathlib import Path

from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("simarm")
@dataclass
class SimArmConfig(RobotConfig):
    """An arm of three joints with two cameras, in MuJoCo.

    Args:
        joints: Their order, in states and actions.
        degrees: Report and take degrees in place of radians.
        names: Of the cameras that are there, of `front` and `wrist`.
        size: Height and width of a picture.
        fps: Steps per second that the arm's physics goes on with an action.
        pose: Of the joints when it is connected, in radians, in the usual order.
        journal: File with a line for everything that is done to the arm; None: none.
        breaks_at: Action at which its bus fails; 0: never.
    """

    joints: list[str] = field(default_factory=lambda: ["shoulder", "elbow", "wrist"])
    degrees: bool = False
    names: list[str] = field(default_factory=lambda: ["front", "wrist"])
    size: int = 48
    fps: int = 50
    pose: list[float] = field(default_factory=lambda: [0.5, -0.8, 1.0])
    journal: Path | None = None
    breaks_at: int = 0
