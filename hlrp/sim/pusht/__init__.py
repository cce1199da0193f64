"""PushT as the catalogue knows it, LeRobot's own environment, and how it is recorded."""

from hlrp.sim.interface import EnvEntry, Recording

TASK, PICTURE = "PushT-v0", "image"
_SIZE = 96
"""Side of LeRobot's frames in pixels, whatever its configuration says."""
_MOTORS = ("motor_0", "motor_1")
_RECORDING = Recording(
    env_type="pusht",
    make="hlrp.sim.pusht.gym_env:ExpertPushTEnv",
    fps=10,
    cameras={PICTURE: PICTURE},
    state=_MOTORS,
    action=_MOTORS,
    robot_type="unknown",
    episode_length=300,
    image_size=_SIZE,
    noise=0.0,
    packages=("gym-pusht", "pymunk"),
    prefix="observation.",
    env_fields={"observation_height": _SIZE, "observation_width": _SIZE},
)


def entries() -> list[EnvEntry]:
    """LeRobot's `pusht`."""
    return [
        EnvEntry(
            name="pusht",
            default_task=TASK,
            tasks=(TASK,),
            groups={},
            extra="sim",
            modules=("gym_pusht",),
            needs_gl=False,
            # The sentence of the data that people recorded, lerobot/pusht.
            instructions={TASK: "Push the T-shaped block onto the T-shaped target."},
            recording=_RECORDING,
        )
    ]
