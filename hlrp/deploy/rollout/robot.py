"""LeRobot's robot of a series: made, connected, let go; and what of its settings decides a trial."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from lerobot.robots import make_robot_from_config

from hlrp.errors import UserError, root_cause

# By these the same robot and its cameras are reached, from another socket or computer, and how patiently.
_REACHED_BY = re.compile(
    r"id|calibration_dir|index_or_path|sdk_url|(.*_)?(port|ip|ip_address|address|interface|adapter)|port_\w+"
    r"|\w*(retries|timeout)\w*|warmup_s|connection_time_s|debug\w*"
)


def settings_of(config: Any, prefix: str) -> dict[str, Any]:
    """The settings that decide a trial, by their dotted names, as JSON has them.

    Args:
        config: LeRobot's configuration, of a robot or of the inference.
        prefix: What its flags begin with: `robot` for `robot.cameras.top.width`.

    Returns:
        All fields of the configuration and of those in it, but for files and for what it is only reached by.
    """
    if dataclasses.is_dataclass(config):
        names = [field.name for field in dataclasses.fields(config) if not _REACHED_BY.fullmatch(field.name)]
        inside = {name: getattr(config, name) for name in names}
    elif isinstance(config, dict) and config:
        inside = {str(name): value for name, value in config.items()}
    else:
        return {} if isinstance(config, Path) else {prefix: _plain(config)}
    return {name: value for key, item in inside.items() for name, value in settings_of(item, f"{prefix}.{key}").items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    finite = isinstance(value, int | float) and math.isfinite(value)
    return value if finite or value is None or isinstance(value, str | dict) else str(value)


def make_robot(config: Any) -> Any:
    """LeRobot's robot, not connected.

    Raises:
        UserError: It cannot be made.
    """
    try:
        return make_robot_from_config(config)
    except Exception as error:
        raise UserError(
            f"LeRobot cannot make the robot {config.type!r}: {root_cause(error)}",
            where="--robot.*",
            fix="install what the robot needs, or correct its fields",
        ) from error


@contextlib.contextmanager
def connected(robot: Any, log: Callable[[str], None]) -> Iterator[None]:
    """The robot, connected inside; whatever happens, it is let go.

    Raises:
        UserError: It cannot be connected.
    """
    try:
        try:
            robot.connect()
        except Exception as error:
            raise UserError(
                f"the robot cannot be connected: {root_cause(error) or type(error).__name__}",
                where="--robot.*",
                fix="check power, cables and the port; `lerobot-find-port` and `lerobot-find-cameras` name them",
            ) from error
        yield
    finally:
        if robot.is_connected:
            try:
                robot.disconnect()
            except Exception as error:
                # Not in place of what went wrong before.
                log(f"warning: the robot could not be disconnected: {type(error).__name__}: {error}")
