"""LeRobot environment type `libero_light`: LeRobot's LIBERO with small, light frames and seeds that count.

Importing this module registers the type, so `--env.type=libero_light` works in stock `lerobot-eval` as well.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.envs.configs import LiberoEnv as LiberoConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from hlrp.camera_names import NAMED
from hlrp.errors import UserError, suggest
from hlrp.sim.catalog import check_square, check_switches, expand_tasks, require_installed, switches_of
from hlrp.sim.libero import ENVIRONMENT_GIB, FPS, FURTHER_GIB, LIBERO_CAMERAS, MOTIONS, PROCESS_GIB, STATE, places
from hlrp.sim.memory import fitting

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

_LEROBOTS_SIZES = (LiberoConfig.observation_height, LiberoConfig.observation_width)
_FIXED = {
    "fps": FPS,
    "obs_type": "pixels_agent_pos",
    "init_states": True,
    "hard_reset": False,
    "is_libero_plus": False,
}
_CONTROL_MODES = ("relative", "absolute")


@EnvConfig.register_subclass("libero_light")
@dataclass
class LiberoLightEnv(LiberoConfig):
    """Same tasks, actions, rewards, success and names as LeRobot's `libero` has after its processor.

    Attributes:
        task: A suite (`libero_object`), a task of one (`libero_object_3`), or a comma list of them.
        task_ids: Numbers of the tasks of each suite; None: all that ``task`` names.
        episode_length: Steps of 1/20 s after which an episode is truncated; None: LeRobot's number for the suite.
        hard_reset: Whether the model is built again at each reset, 4 s; not offered.
        observation_height: Follows from ``image_size``.
        observation_width: The same.
        image_size: Side in pixels of the square frames, of the policy and of recorded videos alike.
        camera_name: LeRobot's names of the cameras, a comma list.
        camera_name_mapping: LeRobot's names of the cameras to those of pictures, in place of `image` and `image2`.
        shadows: Draw shadows and reflections.
        multisampling: Smooth edges.
        camera_shake: How far in metres the first camera drifts at most, as if held by hand; 0: it stands still.

    Raises:
        UserError: A task, camera, size, length or shake that does not exist, or another value where there is one only.
    """

    task: str = "libero_object"
    hard_reset: bool = False
    image_size: int = 128
    shadows: bool = False
    multisampling: bool = False
    camera_shake: float = 0.0

    def __post_init__(self) -> None:
        self._check()
        self.observation_height = self.observation_width = self.image_size
        super().__post_init__()
        # What a policy sees of LeRobot's environment after its processor; here the environment gives it.
        frame = PolicyFeature(type=FeatureType.VISUAL, shape=(self.image_size, self.image_size, 3))
        names = {"action": ACTION, "agent_pos": OBS_STATE}
        self.features = {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=(len(MOTIONS),)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(len(STATE),)),
        }
        for picture in self._pictures:
            self.features[f"pixels/{picture}"], names[f"pixels/{picture}"] = frame, f"{NAMED}{picture}"
        self.features_map = names

    usual_batch: ClassVar[int] = 4
    """Environments of an evaluation that asks for no number: 5 GB, with a small policy."""

    @property
    def _cameras(self) -> list[str]:
        return [name.strip() for name in self.camera_name.split(",")]

    @property
    def _pictures(self) -> list[str]:
        return [(LIBERO_CAMERAS | (self.camera_name_mapping or {}))[camera] for camera in self._cameras]

    def _check(self) -> None:
        length = 1 if self.episode_length is None else self.episode_length
        for camera in self._cameras:
            check_switches(self.image_size, camera, tuple(LIBERO_CAMERAS), length, self.camera_shake)
        check_square(self, _LEROBOTS_SIZES)
        for name, value in _FIXED.items():
            if getattr(self, name) != value:
                what = f"{name} {getattr(self, name)!r} is not offered"
                raise UserError(what, where=f"env.{name}", fix=f"leave it at {value!r}, or use LeRobot's type libero")
        if self.control_mode not in _CONTROL_MODES:
            what = f"unknown control mode {self.control_mode!r}"
            raise UserError(what, where="env.control_mode", fix=suggest(self.control_mode, _CONTROL_MODES))
        if unknown := [name for name in self.camera_name_mapping or {} if name not in LIBERO_CAMERAS]:
            what = f"unknown camera {unknown[0]!r}"
            raise UserError(what, where="env.camera_name_mapping", fix=suggest(unknown[0], LIBERO_CAMERAS))
        if len(set(self._pictures)) < len(self._cameras):
            what = f"two pictures have one name: {', '.join(self._pictures)}"
            raise UserError(what, where="env.camera_name, env.camera_name_mapping", fix="name each camera once")
        found = {places()[name][1] for name in self.task_names}
        if self.task_ids is not None and (not found or set(self.task_ids) - found):
            what = f"{self.task} does not have all of the tasks {self.task_ids}"
            raise UserError(what, where="env.task_ids", fix="give numbers of its tasks, or leave it out")

    @property
    def task_names(self) -> list[str]:
        """The single tasks."""
        named = expand_tasks("libero_light", self.task, where="env.task")
        return [name for name in named if self.task_ids is None or places()[name][1] in self.task_ids]

    @property
    def gym_kwargs(self) -> dict:
        """Arguments of `hlrp.sim.libero.gym_env.LightLiberoEnv` besides the task."""
        own = ("render_mode", "control_mode", "camera_name_mapping")
        return {**{name: getattr(self, name) for name in own}, **switches_of(self)}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, "VectorEnv"]]:
        """Vector environments as `{suite: {task_id: VectorEnv}}`, each of ``n_envs`` copies or as many as fit."""
        require_installed("libero_light")
        from hlrp.sim.libero.gym_env import LightLiberoEnv
        from hlrp.sim.vector import copies

        if use_async_envs:
            n_envs = fitting(n_envs, PROCESS_GIB, PROCESS_GIB, "processes with an environment")
        else:
            n_envs = fitting(n_envs, ENVIRONMENT_GIB, FURTHER_GIB, "environments")
        out: dict[str, dict[int, VectorEnv]] = {}
        for task in self.task_names:
            suite, number = places()[task]
            vec = copies(LightLiberoEnv, task, n_envs, self.gym_kwargs, use_async=use_async_envs)
            out.setdefault(suite, {})[number] = vec
        return out

    def get_env_processors(self) -> tuple[Any, Any]:
        """None are needed: the environment turns its pictures and joins its state as LeRobot's processor does."""
        return EnvConfig.get_env_processors(self)
