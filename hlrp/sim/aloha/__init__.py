"""ALOHA's two simulated arms as the catalogue knows them: tasks, sentences, and how they are recorded."""

from hlrp.sim.interface import EnvEntry, Recording

ALOHA_CAMERAS = ("top", "angle", "front_close", "left_pillar", "right_pillar")
SCENES = {"AlohaTransferCube-v0": "transfer_cube", "AlohaInsertion-v0": "insertion"}
"""gym-aloha's short names by LeRobot's names of the tasks."""
_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
_MOTORS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in _JOINTS)
_RECORDING = Recording(
    env_type="aloha_light",
    make="hlrp.sim.aloha.gym_env:LightAlohaEnv",
    fps=50,
    cameras={"top": "top"},
    state=_MOTORS,
    action=_MOTORS,
    robot_type="aloha",
    episode_length=400,
    image_size=128,  # a pixel is a centimetre of the table, the cube four
    noise=0.0,
    packages=("gym-aloha", "dm_control", "mujoco"),
)


def entries() -> list[EnvEntry]:
    """`aloha_light` and LeRobot's own `aloha`."""
    return [
        EnvEntry(
            name=name,
            default_task="AlohaTransferCube-v0",
            tasks=tuple(SCENES),
            groups={scene: (task,) for task, scene in SCENES.items()},
            extra="aloha",
            modules=("gym_aloha", "mujoco"),
            needs_gl=True,
            # The sentences of the data that people recorded, lerobot/aloha_sim_*_human.
            instructions={
                "AlohaTransferCube-v0": "Pick up the cube with the right arm and transfer it to the left arm.",
                "AlohaInsertion-v0": "Insert the peg into the socket.",
            },
            recording=_RECORDING,
        )
        for name in ("aloha_light", "aloha")
    ]
