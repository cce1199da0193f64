"""What a series of trials is asked: plain data, importable without torch or LeRobot."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where a policy is: a run, checkpoint or `pretrained_model` folder, or the address of a server.

    Args:
        path: The folder; None: it is behind a server.
        address: Of the server.
    """

    path: Path | None = None
    address: str | None = None

    @property
    def name(self) -> str:
        """As a user writes it."""
        return str(self.path or self.address)


@dataclass(frozen=True)
class RolloutRequest:
    """A series of trials.

    Args:
        policy: What acts.
        robot: LeRobot's configuration of the robot.
        inference: LeRobot's configuration of the inference, sync or rtc.
        against: A second policy, compared with the first in a blind order.
        episodes: Trials of each policy, >= 1.
        seconds: Longest time of a trial, > 0.
        return_seconds: How long the robot takes back to where it stood at the start after each trial; 0: it stays.
        fps: Steps per second; None: those of the data.
        task: The instruction; None: the only one of the data.
        device: Torch device; None: the checkpoint's if it is here, else the best one.
        rename_map: Observation key of the robot -> key of the policy; empty keeps the checkpoint's own.
        action_space: The one to act in, of a policy that knows several; None: its own choice.
        dataset_root: The data that the policy was trained on; None: where its run says.
        allowed: Kinds of mismatch (`flags.MISMATCHES`) that do not matter.
        seed: Of the blind order; None: one that nobody knows.
        output: Folder of the results; None: the unfinished series of the same terms in the run, or a fresh one.
        token: What a server asks for.
        certificate: The one to trust with `wss`.
    """

    policy: Source
    robot: Any
    inference: Any
    against: Source | None = None
    episodes: int = 10
    seconds: float = 60.0
    return_seconds: float = 3.0
    fps: float | None = None
    task: str | None = None
    device: str | None = None
    rename_map: dict[str, str] = field(default_factory=dict)
    action_space: str | None = None
    dataset_root: Path | None = None
    allowed: tuple[str, ...] = ()
    seed: int | None = None
    output: Path | None = None
    token: str | None = None
    certificate: Path | None = None
