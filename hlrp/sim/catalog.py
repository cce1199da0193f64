"""What can be simulated, known without importing LeRobot or a simulator: answers in milliseconds."""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from hlrp.errors import UserError, suggest
from hlrp.sim import aloha, libero, metaworld, pusht
from hlrp.sim.interface import EnvEntry, Recording

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 1024
MAX_CAMERA_SHAKE = 0.3


@lru_cache
def envs_catalog() -> dict[str, EnvEntry]:
    """Simulators by LeRobot environment type."""
    simulators = (metaworld, aloha, libero, pusht)
    return {entry.name: entry for simulator in simulators for entry in simulator.entries()}


def _entry(env: str) -> EnvEntry:
    catalog = envs_catalog()
    if env not in catalog:
        raise UserError(f"unknown environment {env!r}", where="--env", fix=suggest(env, catalog))
    return catalog[env]


def recording_of(env: str) -> Recording:
    """How the simulator ``env`` is recorded.

    Raises:
        UserError: It is unknown.
    """
    return _entry(env).recording


def task_description(task: str) -> str:
    """Instruction sentence of a single task of any simulator (`KeyError` if unknown)."""
    return {name: text for e in envs_catalog().values() for name, text in e.instructions.items()}[task]


def expand_tasks(env: str, names: str | list[str] | tuple[str, ...], *, where: str = "--tasks") -> list[str]:
    """Single task names for a comma list (or list) of tasks and groups, in order, without repetition.

    Raises:
        UserError: Unknown environment or task, or no task at all.
    """
    entry = _entry(env)
    given = [names] if isinstance(names, str) else list(names)
    wanted = [part.strip() for name in given for part in name.split(",") if part.strip()]
    if not wanted:
        raise UserError("no task is named", where=where, fix=f"name at least one, such as {entry.default_task}")
    tasks: dict[str, None] = {}
    for name in wanted:
        short = name.removeprefix(entry.prefix)
        if short not in entry.tasks and short not in entry.groups:
            fix = suggest(short, [*entry.tasks, *entry.groups])
            raise UserError(f"unknown task {name!r} of environment {env!r}", where=where, fix=fix)
        tasks.update(dict.fromkeys(entry.groups.get(short, (short,))))
    return list(tasks)


def require_installed(env: str) -> None:
    """Raise `UserError` if the packages that simulate ``env`` are not installed. Imports none of them."""
    entry = envs_catalog()[env]
    missing = [name for name in entry.modules if find_spec(name) is None]
    if missing:
        raise UserError(
            f"the simulator {env!r} needs packages that are not installed: {', '.join(missing)}",
            where="--env",
            fix=f"pip install -e '.[{entry.extra}]'",
        )


def switches_of(config: Any) -> dict[str, Any]:
    """The arguments that every light environment takes, of its LeRobot configuration."""
    names = ("image_size", "camera_name", "episode_length", "shadows", "multisampling", "camera_shake")
    return {name: getattr(config, name) for name in names}


def check_switches(
    image_size: int, camera_name: str, cameras: tuple[str, ...], episode_length: int, camera_shake: float
) -> None:
    """Refuse settings of an environment that no light environment has.

    Raises:
        UserError: Naming the field of `env` and its limits.
    """
    if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        what = f"image size {image_size} is out of range"
        raise UserError(what, where="env.image_size", fix=f"{MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels")
    if camera_name not in cameras:
        fix = suggest(camera_name, cameras)
        raise UserError(f"unknown camera {camera_name!r}", where="env.camera_name", fix=fix)
    if episode_length < 1:
        raise UserError(f"episode length {episode_length} is below 1", where="env.episode_length")
    if not 0 <= camera_shake <= MAX_CAMERA_SHAKE:
        what = f"camera shake {camera_shake} m is out of range"
        raise UserError(what, where="env.camera_shake", fix=f"0 to {MAX_CAMERA_SHAKE} metres")


def check_square(config: Any, lerobots: tuple[int, int]) -> None:
    """Refuse LeRobot's height and width of frames, which follow from `image_size` here.

    Args:
        config: The environment's configuration.
        lerobots: What LeRobot's class says when nobody chose them.

    Raises:
        UserError: Somebody did.
    """
    given = (config.observation_height, config.observation_width)
    if given not in (lerobots, (config.image_size, config.image_size)):
        where = "env.observation_height, env.observation_width"
        raise UserError("frames are square here", where=where, fix="set env.image_size")
