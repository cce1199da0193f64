"""LeRobot environment type `aloha_light`: gym-aloha with one small, light camera.

Importing this module registers the type, so `--env.type=aloha_light` works in stock `lerobot-eval` as well.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import AlohaEnv as AlohaConfig
from lerobot.envs.configs import EnvConfig

from hlrp.camera_names import NAMED
from hlrp.errors import UserError
from hlrp.sim.aloha import ALOHA_CAMERAS
from hlrp.sim.catalog import check_square, check_switches, expand_tasks, require_installed, switches_of

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

_LEROBOTS_SIZES = (AlohaConfig.observation_height, AlohaConfig.observation_width)


@EnvConfig.register_subclass("aloha_light")
@dataclass
class AlohaLightEnv(AlohaConfig):
    """Same tasks, actions, rewards, success and names as LeRobot's `aloha`; a step costs a twentieth.

    Attributes:
        task: `AlohaTransferCube-v0` or `transfer_cube`, `AlohaInsertion-v0` or `insertion`, or a comma list.
        episode_length: Steps of 1/50 s after which an episode is truncated.
        observation_height: Follows from ``image_size``.
        observation_width: The same.
        image_size: Side in pixels of the square frames, of the policy and of recorded videos alike.
        camera_name: One of gym-aloha's cameras.
        shadows: Draw shadows and reflections.
        multisampling: Smooth edges.
        camera_shake: How far in metres the camera drifts at most, as if held by hand; 0: it stands still.

    Raises:
        UserError: A task, camera, size, length or shake that does not exist.
    """

    task: str = "AlohaTransferCube-v0"
    observation_height: int = AlohaConfig.observation_height
    observation_width: int = AlohaConfig.observation_width
    image_size: int = 128
    camera_name: str = "top"
    shadows: bool = False
    multisampling: bool = False
    camera_shake: float = 0.0

    def __post_init__(self) -> None:
        check_switches(self.image_size, self.camera_name, ALOHA_CAMERAS, self.episode_length, self.camera_shake)
        if self.obs_type != "pixels_agent_pos":
            what = f"observation type {self.obs_type!r} is not offered"
            raise UserError(what, where="env.obs_type", fix="use pixels_agent_pos")
        check_square(self, _LEROBOTS_SIZES)
        self.task = ",".join(expand_tasks("aloha_light", self.task, where="env.task"))
        self.observation_height = self.observation_width = self.image_size
        super().__post_init__()
        frame: PolicyFeature = self.features.pop("pixels/top")
        assert frame.type is FeatureType.VISUAL
        seen = f"pixels/{self.camera_name}"
        self.features[seen], self.features_map[seen] = frame, f"{NAMED}{self.camera_name}"

    @property
    def gym_kwargs(self) -> dict:
        """Arguments of `hlrp.sim.aloha.gym_env.LightAlohaEnv` besides the task."""
        return {"render_mode": self.render_mode, **switches_of(self)}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, "VectorEnv"]]:
        """Vector environments as `{task: {0: VectorEnv}}`, each of ``n_envs`` copies."""
        require_installed("aloha_light")
        from hlrp.sim.aloha.gym_env import LightAlohaEnv
        from hlrp.sim.vector import copies

        return {
            task: {0: copies(LightAlohaEnv, task, n_envs, self.gym_kwargs, use_async=use_async_envs)}
            for task in self.task.split(",")
        }
