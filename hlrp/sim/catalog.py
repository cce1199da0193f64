"""What can be simulated, read from LeRobot's files without importing LeRobot: answers in milliseconds."""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from hlrp.errors import UserError, suggest

METAWORLD_CAMERAS = ("corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 1024
MAX_CAMERA_SHAKE = 0.3


@dataclass(frozen=True)
class EnvEntry:
    """One simulator that `hlrp` knows by name.

    Attributes:
        name: LeRobot environment type, as in `--env` and `--env.type`.
        default_task: Task used when none is named.
        tasks: Names of single tasks.
        groups: Names that stand for several tasks.
        has_expert: Whether `hlrp collect` can record it.
        modules: Modules that have to be installed.
        needs_gl: Whether frames are rendered with OpenGL.
    """

    name: str
    default_task: str
    tasks: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    has_expert: bool
    modules: tuple[str, ...]
    needs_gl: bool


@lru_cache
def _metaworld_file() -> dict[str, dict]:
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


@lru_cache
def envs_catalog() -> dict[str, EnvEntry]:
    """Simulators by LeRobot environment type."""
    known = _metaworld_file()
    tasks = tuple(known["TASK_NAME_TO_ID"])
    groups = {name: tuple(members) for name, members in known["DIFFICULTY_TO_TASKS"].items()}

    def metaworld(name: str) -> EnvEntry:
        return EnvEntry(name, "button-press-v3", tasks, groups, True, ("metaworld", "mujoco"), True)

    pusht = EnvEntry("pusht", "PushT-v0", ("PushT-v0",), {}, False, ("gym_pusht",), False)
    return {"metaworld_light": metaworld("metaworld_light"), "metaworld": metaworld("metaworld"), "pusht": pusht}


def task_description(task: str) -> str:
    """LeRobot's instruction sentence of a Meta-World task (`KeyError` if unknown)."""
    return _metaworld_file()["TASK_DESCRIPTIONS"][task]


def expand_tasks(env: str, names: str | list[str] | tuple[str, ...], *, where: str = "--tasks") -> list[str]:
    """Single task names for a comma list (or list) of tasks and groups, in order, without repetition.

    Raises:
        UserError: Unknown environment or task, or no task at all.
    """
    catalog = envs_catalog()
    if env not in catalog:
        raise UserError(f"unknown environment {env!r}", where="--env", fix=suggest(env, catalog))
    entry = catalog[env]
    given = [names] if isinstance(names, str) else list(names)
    wanted = [part.strip() for name in given for part in name.split(",") if part.strip()]
    if not wanted:
        raise UserError("no task is named", where=where, fix=f"name at least one, such as {entry.default_task}")
    tasks: dict[str, None] = {}
    for name in wanted:
        short = name.removeprefix("metaworld-")
        if short not in entry.tasks and short not in entry.groups:
            fix = suggest(short, [*entry.tasks, *entry.groups])
            raise UserError(f"unknown task {name!r} of environment {env!r}", where=where, fix=fix)
        tasks.update(dict.fromkeys(entry.groups.get(short, (short,))))
    return list(tasks)


def require_installed(env: str) -> None:
    """Raise `UserError` if the packages that simulate ``env`` are not installed. Imports none of them."""
    missing = [name for name in envs_catalog()[env].modules if find_spec(name) is None]
    if missing:
        raise UserError(
            f"the simulator {env!r} needs packages that are not installed: {', '.join(missing)}",
            where="--env",
            fix="pip install -e '.[sim]'",
        )
