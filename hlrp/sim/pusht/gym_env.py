"""LeRobot's PushT as the recorder takes it: with a time limit and an expert."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gym_pusht.envs.pusht import PushTEnv

from hlrp.sim.pusht import PICTURE
from hlrp.sim.pusht.expert import act


class ExpertPushTEnv(PushTEnv):
    """The parent with an expert.

    Observation: `pixels`, a map of `image` to the frame [S, S, 3] uint8, and `agent_pos` [2] float64, the middle of the
    disc. Action [2]: where the disc is to go. Both are pixels of a field of 512 x 512.
    """

    observation_space: gym.spaces.Dict

    def __init__(self, task: str, *, image_size: int = 96, episode_length: int = 300) -> None:
        super().__init__("pixels_agent_pos", "rgb_array", observation_width=image_size, observation_height=image_size)
        self.task = task
        spaces = self.observation_space.spaces
        frames = gym.spaces.Dict({PICTURE: spaces["pixels"]})
        self.observation_space = gym.spaces.Dict({"pixels": frames, "agent_pos": spaces["agent_pos"]})
        self._episode_length, self._elapsed = episode_length, 0

    def get_obs(self) -> dict[str, Any]:
        """The parent's observation, its picture with a name."""
        seen = super().get_obs()
        return {**seen, "pixels": {PICTURE: seen["pixels"]}}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Start an episode; with a seed, the first state depends on that seed alone."""
        self._elapsed = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step of 1/10 s."""
        observation, reward, terminated, _, info = super().step(action)
        self._elapsed += 1
        return observation, float(reward), bool(terminated), self._elapsed >= self._episode_length, info

    def expert(self) -> Callable[[], np.ndarray]:
        """Targets [2] of the disc that push the block to its goal."""
        block, disc = self.block, self.agent

        def look() -> tuple[np.ndarray, np.ndarray]:
            centre = block.local_to_world(block.center_of_gravity)
            return np.array([*centre, block.angle]), np.array(disc.position)

        targets = act(look)
        return lambda: next(targets)
