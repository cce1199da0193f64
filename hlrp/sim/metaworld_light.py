"""LeRobot environment type `metaworld_light`: LeRobot's Meta-World with small, light frames.

Importing this module registers the type, so `--env.type=metaworld_light` works in stock `lerobot-eval` as well.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.envs.configs import MetaworldEnv as MetaworldConfig

from hlrp.camera_names import NAMED
from hlrp.sim.catalog import check_switches, expand_tasks, switches_of
from hlrp.sim.metaworld import METAWORLD_CAMERAS
from hlrp.sim.rendering import configure_gl

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv


@EnvConfig.register_subclass("metaworld_light")
@dataclass
class MetaworldLightEnv(MetaworldConfig):
    """Same tasks, cameras, actions, rewards and success as LeRobot's `metaworld`; frames cost a tenth.

    A policy sees them as `observation.images.<camera_name>`; LeRobot's class has one name for whichever camera it is.

    Attributes:
        task: Task, difficulty group (`easy`, `medium`, `hard`, `very_hard`), or a comma list of them.
        episode_length: Steps after which an episode is truncated.
        image_size: Side in pixels of the square frames, of the policy and of recorded videos alike.
        camera_name: One of Meta-World's cameras; `corner2` is turned upright as LeRobot does.
        shadows: Draw shadows and reflections as LeRobot does (about 100 ms a frame without a GPU).
        multisampling: Smooth edges.
        camera_shake: How far in metres the camera drifts at most, as if held by hand; 0: it stands still.

    Raises:
        UserError: A task, camera, size, length or shake that does not exist.
    """

    task: str = "button-press-v3"
    image_size: int = 96
    camera_name: str = "corner2"
    shadows: bool = False
    multisampling: bool = False
    camera_shake: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_switches(self.image_size, self.camera_name, METAWORLD_CAMERAS, self.episode_length, self.camera_shake)
        expand_tasks("metaworld_light", self.task, where="env.task")
        frame = PolicyFeature(type=FeatureType.VISUAL, shape=(self.image_size, self.image_size, 3))
        for unnamed in [key for key, feature in self.features.items() if feature.type is FeatureType.VISUAL]:
            del self.features[unnamed]
        seen = f"pixels/{self.camera_name}"
        self.features[seen], self.features_map[seen] = frame, f"{NAMED}{self.camera_name}"

    @property
    def gym_kwargs(self) -> dict:
        """Arguments of `hlrp.sim.metaworld_gym.LightMetaworldEnv` besides the task."""
        return {**super().gym_kwargs, **switches_of(self)}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, "VectorEnv"]]:
        """Vector environments as `{task or group: {task_id: VectorEnv}}`, each of ``n_envs`` copies."""
        configure_gl()
        from hlrp.sim.metaworld_gym import create_vector_envs

        return create_vector_envs(self.task, n_envs, self.gym_kwargs, use_async=use_async_envs)
