"""Meta-World as the catalogue knows it: tasks and sentences from LeRobot's file, and how it is recorded."""

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from hlrp.errors import UserError
from hlrp.sim.interface import EnvEntry, Recording

METAWORLD_CAMERAS = ("corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")
_RECORDING = Recording(
    env_type="metaworld_light",
    make="hlrp.sim.metaworld_gym:LightMetaworldEnv",
    fps=80,
    cameras={"corner2": "corner2"},
    state=("hand_x", "hand_y", "hand_z", "gripper"),
    action=("delta_x", "delta_y", "delta_z", "gripper"),
    robot_type="sawyer",
    episode_length=500,  # Meta-World's own limit; the slowest experts need most of it
    image_size=96,
    noise=0.1,
    packages=("metaworld", "mujoco"),
)


@lru_cache
def _lerobots_file() -> dict[str, dict]:
    spec = find_spec("lerobot")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("LeRobot is not installed", fix="run scripts/setup.sh, or: pip install -e '.[sim]'")
    path = Path(next(iter(spec.submodule_search_locations))) / "envs" / "metaworld_config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            "LeRobot's list of Meta-World tasks cannot be read", where=str(path), fix="reinstall lerobot"
        ) from error


def entries() -> list[EnvEntry]:
    """`metaworld_light` and LeRobot's own `metaworld`."""
    known = _lerobots_file()
    return [
        EnvEntry(
            name=name,
            default_task="button-press-v3",
            tasks=tuple(known["TASK_NAME_TO_ID"]),
            groups={group: tuple(members) for group, members in known["DIFFICULTY_TO_TASKS"].items()},
            extra="sim",
            modules=("metaworld", "mujoco"),
            needs_gl=True,
            instructions=known["TASK_DESCRIPTIONS"],
            prefix="metaworld-",
            recording=_RECORDING,
        )
        for name in ("metaworld_light", "metaworld")
    ]
