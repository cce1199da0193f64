"""The gym environment behind `metaworld_light`, and its vector environments."""

# ruff: noqa: E402  (the OpenGL backend has to be chosen before mujoco is imported, in worker processes too)
from hlrp.sim.rendering import configure_gl

configure_gl()

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import gymnasium as gym
import metaworld
import mujoco
import numpy as np
from lerobot.envs.metaworld import DIFFICULTY_TO_TASKS, MetaworldEnv

from hlrp.sim.light import LightEnv
from hlrp.sim.vector import copies


@lru_cache
def _any_task(name: str) -> metaworld.Task:
    """The task object LeRobot starts from. Building it costs half a second, so it is shared within a process."""
    return metaworld.MT1(name, seed=42).train_tasks[0]


class LightMetaworldEnv(LightEnv, MetaworldEnv):
    """LeRobot's Meta-World environment with light rendering, honest episode ends and a time limit.

    Observation: `pixels`, a map of the camera's name to its frame [S, S, 3] uint8, and (with `pixels_agent_pos`)
    `agent_pos` [4] float64: hand position in metres and gripper opening in [0, 1]. Action: [4] in [-1, 1].

    Differences from the parent: the frame is rendered at ``image_size``; `step` does not reset on success, so the last
    observation and frame of an episode are its own; `truncated` is set after ``episode_length`` steps. With
    ``camera_shake`` the camera drifts as if held by hand: a slow sum of sines along each axis, at most that many metres
    away, whose phases the seed decides. The simulation itself is the same.
    """

    metadata = {**MetaworldEnv.metadata, "frames_on_demand": True}  # noqa: RUF012

    _env: Any
    observation_space: gym.spaces.Dict

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 96,
        camera_name: str = "corner2",
        obs_type: str = "pixels_agent_pos",
        render_mode: str = "rgb_array",
        episode_length: int = 400,
        shadows: bool = False,
        multisampling: bool = False,
        camera_shake: float = 0.0,
    ) -> None:
        super().__init__(
            task,
            camera_name=camera_name,
            obs_type=obs_type,
            render_mode=render_mode,
            observation_width=image_size,
            observation_height=image_size,
            visualization_width=image_size,
            visualization_height=image_size,
        )
        spaces = dict(self.observation_space.spaces)
        self.observation_space = gym.spaces.Dict(spaces | {"pixels": gym.spaces.Dict({camera_name: spaces["pixels"]})})
        self._set_switches(
            (camera_name,),
            image_size,
            episode_length=episode_length,
            shadows=shadows,
            multisampling=multisampling,
            camera_shake=camera_shake,
        )
        self.raw_observation: np.ndarray | None = None
        """Meta-World's own observation [39] float64 of the current state, which scripted experts act on."""

    def _ensure_env(self) -> None:
        if self._env is not None:
            return
        # As the parent does, but sharing the task object; a test compares the states with the parent's.
        env = metaworld.ALL_V3_ENVIRONMENTS[self.task](render_mode=self.render_mode, camera_name=self.camera_name)
        env.set_task(_any_task(self.task))
        if self.camera_name == "corner2":
            env.model.cam_pos[2] = [0.75, 0.075, 0.7]
        env.reset()
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        # Meta-World refuses to step past its own limit of 500.
        env.max_path_length = max(env.max_path_length, self._max_episode_steps)
        self._draw_from(env.model, env.data)
        env.mujoco_renderer.close()
        env.mujoco_renderer = self._frames
        self._env = env

    def _format_raw_obs(self, raw_obs: np.ndarray) -> dict[str, np.ndarray]:
        if self._elapsed == 0:
            # Meta-World moves goal markers after its last forward pass, so the first frame would show the marker of an
            # earlier draw. Positions only: the dynamics stay bit for bit those of LeRobot's environment.
            mujoco.mj_kinematics(self._env.model, self._env.data)
        self.raw_observation = np.array(raw_obs)
        self._aim()
        observation = super()._format_raw_obs(raw_obs)
        return {**observation, "pixels": self._keep({self.camera_name: observation["pixels"]})}

    def _film(self) -> np.ndarray:
        return MetaworldEnv.render(self)

    def reset(self, seed: int | None = None, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode. With a seed, the first state depends on that seed alone."""
        self._begin(seed)
        return super().reset(seed=seed, **kwargs)

    def expert(self) -> Callable[[], np.ndarray]:
        """Meta-World's scripted policy, from its beginning; its actions [4] float64 can be far beyond [-1, 1]."""
        policy = type(self.expert_policy)()
        return lambda: policy.get_action(self.raw_observation)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One step of 1/80 s. `info["final_info"]` is present at the episode's end, as LeRobot's rollout expects.

        Raises:
            ValueError: ``action`` is not one-dimensional.
        """
        self._ensure_env()
        if np.ndim(action) != 1:
            raise ValueError(f"expected an action of shape (4,), got {np.shape(action)}")
        raw_obs, reward, done, _, info = self._env.step(action)
        is_success = bool(info.get("success", 0))
        terminated = bool(done) or is_success
        truncated = self._count_step(terminated)
        info.update(task=self.task, done=bool(done), is_success=is_success)
        if self._over:
            info["final_info"] = {"task": self.task, "done": bool(done), "is_success": is_success}
        return self._format_raw_obs(raw_obs), float(reward), terminated, truncated, info

    def close(self) -> None:
        """Free the simulator and its OpenGL context. A later `reset` makes them anew."""
        super().close()
        self._env = None
        self._frame = self.raw_observation = None


def create_vector_envs(
    task: str, n_envs: int, gym_kwargs: dict[str, Any], *, use_async: bool = False
) -> dict[str, dict[int, Any]]:
    """Vector environments in LeRobot's shape `{task or group: {task_id: vector environment}}`.

    Args:
        task: Task, difficulty group, or a comma list of them.
        n_envs: Copies per task, at least 1.
        gym_kwargs: Arguments of `LightMetaworldEnv` besides the task.
        use_async: With more than one copy, each lives in its own process.
    """
    out: dict[str, dict[int, Any]] = {}
    names = [part.strip().removeprefix("metaworld-") for part in task.split(",")]
    for group in dict.fromkeys(name for name in names if name):
        out[group] = {}
        for task_id, name in enumerate(DIFFICULTY_TO_TASKS.get(group, [group])):
            out[group][task_id] = copies(LightMetaworldEnv, name, n_envs, gym_kwargs, use_async=use_async)
    return out
