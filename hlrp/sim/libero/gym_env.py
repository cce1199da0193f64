"""The gym environment behind `libero_light`."""

# ruff: noqa: E402  (LIBERO has to know its files before LeRobot imports it)
from hlrp.sim.libero.package import prepare, quiet, suite_of

prepare()

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from lerobot.envs.libero import LiberoEnv
from lerobot.processor.env_processor import LiberoProcessorStep

from hlrp.data.compact import release_memory
from hlrp.sim.catalog import task_description
from hlrp.sim.libero import FPS, LIBERO_CAMERAS, places
from hlrp.sim.light import LightEnv

with quiet():
    from libero.libero.envs.env_wrapper import ControlEnv

_COLLISION_GEOMS = 0
_PARTS = ("eef_pos", "eef_quat", "gripper_qpos")
_LEROBOTS_STATE = LiberoProcessorStep()


@contextmanager
def _own_random() -> Iterator[None]:
    """Leave NumPy's global random numbers, which LIBERO seeds and draws from, as they are for everyone else."""
    before = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(before)


class LightLiberoEnv(LightEnv, LiberoEnv):
    """LeRobot's LIBERO environment with light rendering, first states that seeds decide, and honest episode ends.

    Observation: `pixels`, a map of `image` (from the front) and `image2` (from the wrist) to frames [S, S, 3] uint8,
    and `agent_pos` [8] float32: the hand's position in metres and its orientation as axis times angle in radians, and
    both fingers' positions in metres. Both are what LeRobot's processor makes of the parent's observation: frames stand
    upright and are mirrored. Action: [7] in [-1, 1]: changes of position and orientation, and the gripper, -1 open to 1
    closed.

    Differences from the parent: a seed gives the initial state of that number, modulo their count; frames are drawn at
    ``image_size`` in a context of this environment alone; `truncated` is set after ``episode_length`` steps (None: the
    suite's own number). The model is built once, not at each reset. ``camera_shake`` is as in
    `hlrp.sim.light.CameraShake`.
    """

    metadata = {**LiberoEnv.metadata, "render_fps": FPS, "frames_on_demand": True}  # noqa: RUF012

    _env: Any
    observation_space: gym.spaces.Dict

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 128,
        camera_name: str = ",".join(LIBERO_CAMERAS),
        camera_name_mapping: dict[str, str] | None = None,
        render_mode: str = "rgb_array",
        control_mode: str = "relative",
        episode_length: int | None = None,
        shadows: bool = False,
        multisampling: bool = False,
        camera_shake: float = 0.0,
    ) -> None:
        suite, number = places()[task]
        super().__init__(
            suite_of(suite),
            number,
            suite,
            episode_length=episode_length,
            camera_name=camera_name,
            camera_name_mapping={**LIBERO_CAMERAS, **(camera_name_mapping or {})},
            obs_type="pixels_agent_pos",
            render_mode=render_mode,
            observation_width=image_size,
            observation_height=image_size,
            control_freq=FPS,
            control_mode=control_mode,
            hard_reset=False,
        )
        self._set_switches(
            tuple(name.removesuffix("_image") for name in self.camera_name),
            image_size,
            episode_length=self._max_episode_steps,
            shadows=shadows,
            multisampling=multisampling,
            camera_shake=camera_shake,
        )
        self.task, self.task_description = task, task_description(task)
        state = gym.spaces.Box(-np.inf, np.inf, (8,), np.float32)
        pixels = self.observation_space.spaces["pixels"]
        self.observation_space = gym.spaces.Dict({"pixels": pixels, "agent_pos": state})
        self._unseeded = np.random.default_rng()

    def _ensure_env(self) -> None:
        if self._env is not None:
            return
        # As the parent does, but without robosuite's renderer, which draws into whichever context is current.
        with _own_random(), quiet():
            env = ControlEnv(
                self._task_bddl_file,
                use_camera_obs=False,
                has_offscreen_renderer=False,
                control_freq=self.control_freq,
                hard_reset=self.hard_reset,
                horizon=self.num_steps_wait + self._max_episode_steps + 1,
            )
            env.reset()
        self._draw_from(env.sim.model._model, env.sim.data._data, hidden=(_COLLISION_GEOMS,))
        self._env = env

    def _format_raw_obs(self, raw_obs: dict[str, np.ndarray]) -> dict[str, Any]:
        self._aim()
        pictures = {}
        for name, camera in zip(self.camera_name, self._light_cameras, strict=True):
            # LeRobot's frames stand on their heads and its processor turns them around: upright, and mirrored.
            pictures[self.camera_name_mapping[name]] = np.ascontiguousarray(self._frames.of(camera)[:, ::-1])
        parts = {name: torch.from_numpy(np.array(raw_obs[f"robot0_{name}"]))[None] for name in _PARTS}
        robot = {
            "eef": {"pos": parts["eef_pos"], "quat": parts["eef_quat"]},
            "gripper": {"qpos": parts["gripper_qpos"]},
        }
        state = _LEROBOTS_STATE.observation({"observation.robot_state": robot})["observation.state"]
        return {"pixels": self._keep(pictures), "agent_pos": state[0].numpy()}

    def _film(self) -> np.ndarray:
        return self._frames.render()[:, ::-1]

    def reset(self, seed: int | None = None, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode. With a seed, the first state depends on that seed alone: seeds S and S + 50 have one."""
        if seed is not None:
            self._unseeded = np.random.default_rng(seed)
        drawn = int(self._unseeded.integers(2**31)) if seed is None else seed
        self._begin(seed)
        self.init_state_id = drawn % len(self._init_states)
        self._ensure_env()
        # Only a new model has this at its beginning; the fingers would start from where the last episode left them.
        for robot in self._env.robots:
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        with _own_random(), quiet():
            return super().reset(seed=self.init_state_id, **kwargs)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step of 1/20 s. `info["final_info"]` is present at the episode's end, as LeRobot's rollout expects.

        Raises:
            ValueError: ``action`` is not one-dimensional.
        """
        if np.ndim(action) != 1:
            raise ValueError(f"expected an action of shape (7,), got {np.shape(action)}")
        self._ensure_env()
        raw_obs, reward, done, _ = self._env.step(action)
        terminated = bool(done)
        truncated = self._count_step(terminated)
        info: dict[str, Any] = {"task": self.task, "is_success": terminated}
        if self._over:
            info["final_info"] = dict(info)
        return self._format_raw_obs(raw_obs), float(reward), terminated, truncated, info

    def expert(self) -> Callable[[], np.ndarray]:
        """A grasping expert that reads the simulator's state; its actions [7] are those of a hand that moves there."""
        from hlrp.sim.libero.expert import GraspExpert

        return GraspExpert(self._env.env).act

    def close(self) -> None:
        """Free the simulator and its OpenGL context. A later `reset` makes them anew."""
        if self._env is None:
            return
        self._frames.close()
        del self._frames
        super().close()
        self._frame = None
        # robosuite's objects refer to each other; hundreds of megabytes would wait for the collector.
        gc.collect()
        release_memory()
