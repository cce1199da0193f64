"""The gym environment behind `aloha_light`."""

# ruff: noqa: E402  (the OpenGL backend has to be chosen before mujoco is imported, in worker processes too)
from hlrp.sim.rendering import configure_gl

configure_gl()

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from hlrp.sim.aloha import SCENES
from hlrp.sim.catalog import task_description
from hlrp.sim.light import LightEnv


@contextmanager
def _no_renderer() -> Iterator[None]:
    """Keep dm_control from opening a display when it is imported: a fork server's children would share it."""
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


# After mujoco, which has its backend by now and draws all frames here.
with _no_renderer():
    from gym_aloha.env import AlohaEnv
    from gym_aloha.tasks.sim import BOX_POSE
    from gym_aloha.utils import sample_box_pose, sample_insertion_pose

    from hlrp.sim.aloha.expert import plan

_ARMS = [*range(6), *range(7, 13)]  # of an action; the simulator has two actuators for each gripper
_ARM_ACTUATORS = [*range(6), *range(8, 14)]


class LightAlohaEnv(LightEnv, AlohaEnv):
    """gym-aloha's environment with one light camera, a time limit and an expert.

    Observation: `pixels`, a map of the camera's name to its frame [S, S, 3] uint8, and `agent_pos` [14] float64: six
    joint angles in radians and the opening of the gripper (0 closed, 1 open) of the left arm, then of the right.
    Action: the same 14, as targets.

    Differences from the parent: one camera at ``image_size`` is drawn where the parent draws three of 480 x 640
    pixels; `truncated` is set after ``episode_length`` steps; the action space says what the joints can do, in place of
    [-1, 1]. ``camera_shake`` is as in `hlrp.sim.light.CameraShake`. The simulation itself is the same.
    """

    metadata = {**AlohaEnv.metadata, "frames_on_demand": True}  # noqa: RUF012

    _env: Any
    observation_space: gym.spaces.Dict

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 128,
        camera_name: str = "top",
        render_mode: str = "rgb_array",
        episode_length: int = 400,
        shadows: bool = False,
        multisampling: bool = False,
        camera_shake: float = 0.0,
    ) -> None:
        self.camera_name = camera_name
        self._set_switches(
            (camera_name,),
            image_size,
            episode_length=episode_length,
            shadows=shadows,
            multisampling=multisampling,
            camera_shake=camera_shake,
        )
        super().__init__(SCENES[task], "pixels_agent_pos", render_mode, image_size, image_size, image_size, image_size)
        self.task, self.task_description = task, task_description(task)
        spaces = self.observation_space.spaces
        frames = gym.spaces.Dict({camera_name: spaces["pixels"]["top"]})
        self.observation_space = gym.spaces.Dict({"pixels": frames, "agent_pos": spaces["agent_pos"]})
        ranges = self._env.physics.model.actuator_ctrlrange
        low, high = np.zeros(14, np.float32), np.ones(14, np.float32)
        low[_ARMS], high[_ARMS] = ranges[_ARM_ACTUATORS].T
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)

    def _make_env_task(self, task_name: str) -> Any:
        env = super()._make_env_task(task_name)
        self._draw_from(env.physics.model.ptr, env.physics.data.ptr)
        env.task.get_observation = self._observe
        return env

    def _observe(self, physics: Any) -> dict[str, Any]:
        """What the parent's task returns, without its three pictures."""
        return {"qpos": self._env.task.get_qpos(physics)}

    def _format_raw_obs(self, raw_obs: dict[str, Any]) -> dict[str, Any]:
        self._aim()
        return {"pixels": self._keep({self.camera_name: self._frames.render()}), "agent_pos": raw_obs["qpos"]}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Start an episode. With a seed, the first state depends on that seed alone, and is that of the parent."""
        gym.Env.reset(self, seed=seed, options=options)
        self._begin(seed)
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        # gym-aloha hands the objects over in a global variable, which the reset reads.
        cube = SCENES[self.task] == "transfer_cube"
        BOX_POSE[0] = sample_box_pose(drawn) if cube else np.concatenate(sample_insertion_pose(drawn))
        return self._format_raw_obs(self._env.reset().observation), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step of 1/50 s. `info["final_info"]` is present at the episode's end, as LeRobot's rollout expects.

        Raises:
            ValueError: ``action`` is not one-dimensional.
        """
        if np.ndim(action) != 1:
            raise ValueError(f"expected an action of shape (14,), got {np.shape(action)}")
        made = self._env.step(action)
        terminated = made.reward == self._env.task.max_reward
        truncated = self._count_step(terminated)
        info: dict[str, Any] = {"task": self.task, "is_success": terminated}
        if self._over:
            info["final_info"] = dict(info)
        return self._format_raw_obs(made.observation), float(made.reward), terminated, truncated, info

    def expert(self) -> Callable[[], np.ndarray]:
        """Targets [14] float32 by inverse kinematics from the objects' places; the last one is repeated."""
        physics = self._env.physics
        planned = plan(physics.model.ptr, SCENES[self.task], physics.data.qpos.copy())
        following = iter(planned)
        return lambda: next(following, planned[-1])

    def close(self) -> None:
        """Free the OpenGL context. A later frame makes it anew."""
        self._frames.close()
        self._frame = None
