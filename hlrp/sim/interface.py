"""What a simulator has to offer so that it can be evaluated in and recorded. Plain values, nothing heavy imported."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from hlrp.camera_names import NAMED

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np


class ExpertEnv(Protocol):
    """A gym environment whose scripted expert can be recorded.

    Observation: `pixels`, a map of each picture's name to its frame [S, S, 3] uint8, and `agent_pos` [D] of floats. A
    seed given to `reset` alone decides the first state. `info["is_success"]` is true from the step that solved it on.
    """

    task: str
    action_space: "gym.spaces.Box"

    def reset(self, *, seed: int) -> "tuple[dict[str, Any], dict[str, Any]]":
        """Start the episode of a seed."""

    def step(self, action: "np.ndarray") -> "tuple[dict[str, Any], float, bool, bool, dict[str, Any]]":
        """Execute an action [A] float32; `truncated` at the time limit."""

    def expert(self) -> "Callable[[], np.ndarray]":
        """The expert of the episode that has begun: each call gives the action [A] for the state of that moment."""

    def close(self) -> None:
        """Free the simulator."""


@dataclass(frozen=True)
class Recording:
    """How `hlrp collect` records a simulator.

    Attributes:
        env_type: LeRobot environment type in which policies of the data are evaluated.
        make: `module:class` of the `ExpertEnv`. It is called with a task, `image_size` and `episode_length`, and where
            it is drawn by a light type, with `camera_name` and `camera_shake`.
        fps: Steps, and recorded frames, per second.
        cameras: The cameras that are recorded: the simulator's name of each to the name of its picture.
        state: Names of the state's dimensions.
        action: Names of the action's dimensions.
        robot_type: LeRobot's name of the robot.
        episode_length: Steps after which an attempt has failed.
        image_size: Side of the frames in pixels unless one is asked for.
        noise: Standard deviation of the noise on actions unless one is asked for.
        packages: Distributions whose versions decide what is recorded.
        tasks: Tasks that have an expert; empty: all.
        process_gib: Memory that a process with one environment takes, where it is so much that it limits their number.
        prefix: What stands before the names of pictures in the dataset.
        env_fields: None: the type is a light one of this project. Else it is LeRobot's own, its frames have the one
            `image_size` and its camera stands still; these fields of its configuration say what is recorded.
    """

    env_type: str
    make: str
    fps: int
    cameras: dict[str, str]
    state: tuple[str, ...]
    action: tuple[str, ...]
    robot_type: str
    episode_length: int
    image_size: int
    noise: float
    packages: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    process_gib: float = 0.0
    prefix: str = NAMED
    env_fields: dict[str, Any] | None = None

    @property
    def camera_name(self) -> str:
        """The cameras as the environment's switch of that name takes them: the simulator's names, a comma list."""
        return ",".join(self.cameras)

    @property
    def module(self) -> str:
        """Module of the environment; importing it is what takes long."""
        return self.make.partition(":")[0]

    def make_env(self, task: str, **switches: Any) -> ExpertEnv:
        """The environment of one task; imports the simulator."""
        module, _, name = self.make.partition(":")
        return getattr(import_module(module), name)(task, **switches)


@dataclass(frozen=True)
class EnvEntry:
    """One simulator that `hlrp` knows by name.

    Attributes:
        name: LeRobot environment type, as in `--env` and `--env.type`.
        default_task: Task used when none is named.
        tasks: Names of single tasks.
        groups: Other names, each of one task or several.
        extra: This package's extra that installs it.
        modules: Modules that have to be installed.
        needs_gl: Whether frames are rendered with OpenGL.
        recording: How `hlrp collect` records it.
        instructions: Instruction sentence by task.
        prefix: What LeRobot lets users write before a task's name.
        first_states: How many first states a task has, to which seeds count round; None: each seed has its own.
    """

    name: str
    default_task: str
    tasks: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    extra: str
    modules: tuple[str, ...]
    needs_gl: bool
    recording: Recording
    instructions: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    first_states: int | None = None

    @property
    def is_light(self) -> bool:
        """Whether it is drawn at a chosen size, `image_size`, by this project's own type."""
        return self.recording.env_type == self.name and self.recording.env_fields is None
