"""LeRobot plugin: importing this package registers this project's types with LeRobot.

LeRobot imports every installed distribution whose name starts with `lerobot_policy_`, so stock `lerobot-train` and
`lerobot-eval` know these types too. Only configuration classes are loaded; simulators and models load when used.
"""

from hlrp.sim.metaworld_light import MetaworldLightEnv

__all__ = ["MetaworldLightEnv"]
