"""LeRobot's own flags of a rollout, `--robot.*` and `--inference.*`, read by LeRobot's parser."""

import contextlib
import dataclasses
import io
from dataclasses import dataclass, field
from typing import Any

from hlrp.errors import UserError, root_cause, suggest

PREFIXES = ("--robot.", "--inference.")
MISMATCHES = ("joints", "units", "cameras", "fps")
"""On what a robot and a policy may differ; what `--allow-mismatch` takes."""
_INFERENCE = ("sync", "rtc")


def split_flags(words: list[str]) -> tuple[list[str], list[str]]:
    """The words that are not LeRobot's, and LeRobot's flags as `--robot.type=so101_follower`.

    Raises:
        UserError: One of LeRobot's flags has no value, or is given twice.
    """
    own: list[str] = []
    theirs: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word == "--":
            own += [word, *rest]
        elif not word.startswith(PREFIXES):
            own.append(word)
        else:
            name, given, value = word.partition("=")
            value = value if given else next(rest, "")
            if not value:
                raise UserError(f"{name} has no value", where=name, fix=f"write {name}=VALUE")
            if name in theirs:
                raise UserError(f"{name} is given twice", where="hlrp rollout", fix="keep one of them")
            theirs[name] = value
    return own, [f"{name}={value}" for name, value in theirs.items()]


def parse_flags(flags: list[str]) -> tuple[Any, Any]:
    """LeRobot's configurations of the robot and of the inference; robots of plugins are known too.

    Args:
        flags: From `split_flags`.

    Raises:
        UserError: No or an unknown type, a field that it does not have, or a value that it refuses.
    """
    import draccus
    import lerobot.scripts.lerobot_rollout  # noqa: F401 - importing registers LeRobot's robots and cameras
    from lerobot.configs import parser
    from lerobot.robots import RobotConfig
    from lerobot.rollout import InferenceEngineConfig, SyncInferenceConfig
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    for flag, package in parser.parse_plugin_args(parser.PLUGIN_DISCOVERY_SUFFIX, flags).items():
        try:
            parser.load_plugin(package)
        except parser.PluginLoadError as error:
            raise UserError(
                f"the package {package!r} cannot be imported: {root_cause(error)}",
                where=f"--{flag}",
                fix="install it, or name its folder's parent in PYTHONPATH",
            ) from error
        flags = parser.filter_arg(flag, flags)
    _check_type(flags, "robot", RobotConfig.get_known_choices())
    if any(flag.startswith("--inference.") for flag in flags):
        _check_type(flags, "inference", _INFERENCE)

    @dataclass
    class Flags:
        robot: RobotConfig | None = None
        inference: InferenceEngineConfig = field(default_factory=SyncInferenceConfig)

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = draccus.parse(config_class=Flags, args=flags)
    except (Exception, SystemExit) as error:
        reason = said.getvalue().strip().rpartition("error: ")[2] or root_cause(error)
        kind = next(flag.removeprefix("--robot.type=") for flag in flags if flag.startswith("--robot.type="))
        fields = ", ".join(f"--robot.{f.name}" for f in dataclasses.fields(RobotConfig.get_known_choices()[kind]))
        raise UserError(
            f"LeRobot refuses the robot's flags: {reason}", where=" ".join(flags), fix=f"{kind} has {fields}"
        ) from error
    return found.robot, found.inference


def _check_type(flags: list[str], what: str, known: Any) -> None:
    start = f"--{what}.type="
    given = next((flag.removeprefix(start) for flag in flags if flag.startswith(start)), None)
    if given is None:
        raise UserError(f"there is no {start[:-1]}", where=f"--{what}.*", fix=f"give {start}NAME; {suggest('', known)}")
    if given not in known:
        raise UserError(
            f"there is no {what} {given!r}",
            where=f"{start}{given}",
            fix=f"{suggest(given, known)}"
            + (" A plugin's robot needs its package installed (lerobot_robot_*)" if what == "robot" else ""),
        )
