"""LeRobot plugin: importing this package registers this project's types with LeRobot.

LeRobot imports every installed distribution whose name starts with `lerobot_policy_`, so stock `lerobot-train` and
`lerobot-eval` know these types too. Only configuration classes are loaded; simulators and models load when used.
"""

from hlrp.sim.aloha.config import AlohaLightEnv
from hlrp.sim.libero.config import LiberoLightEnv
from hlrp.sim.metaworld_light import MetaworldLightEnv
from lerobot_policy_felix_bundle.policies.hlrp_action_expert_direct import HLRPActionExpertDirectConfig
from lerobot_policy_felix_bundle.policies.hlrp_action_expert_latent import HLRPActionExpertLatentConfig
from lerobot_policy_felix_bundle.policies.hlrp_vla_direct import HLRPVLADirectConfig

__all__ = [
    "AlohaLightEnv",
    "HLRPActionExpertDirectConfig",
    "HLRPActionExpertLatentConfig",
    "HLRPVLADirectConfig",
    "LiberoLightEnv",
    "MetaworldLightEnv",
]
