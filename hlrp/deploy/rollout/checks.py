"""What a robot and a policy have to agree on before the robot moves: joints, units, cameras, rate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlrp.camera_names import NAMED
from hlrp.errors import UserError

STATE = "observation.state"
_SAME_RATE = 0.01


@dataclass(frozen=True)
class Mismatch:
    """One thing on which a robot and a policy differ.

    Args:
        kind: One of `flags.MISMATCHES`.
        what: What differs.
        robot: The robot's side.
        policy: The policy's side.
        fix: What to do about it.
        passable: Whether a user may say that it does not matter.
    """

    kind: str
    what: str
    robot: str
    policy: str
    fix: str
    passable: bool = True

    def lines(self) -> str:
        """In words, both sides below each other."""
        return (
            f"  {self.kind}: {self.what}\n    robot:  {self.robot}\n    policy: {self.policy}\n    fix:    {self.fix}"
        )


@dataclass(frozen=True)
class RobotSide:
    """What a robot gives and takes, as LeRobot's recorder would write it.

    Args:
        state: Names of its numbers, in its order.
        action: Names of the numbers of an action, in its order.
        cameras: Pictures by LeRobot's names to (H, W, C).
        rates: Frames per second of those cameras that say it.
    """

    state: list[str]
    action: list[str]
    cameras: dict[str, tuple[int, ...]]
    rates: dict[str, float]

    @classmethod
    def of(cls, robot: Any) -> "RobotSide":
        """That of one of LeRobot's robots, connected or not."""
        given = robot.observation_features
        configs = getattr(robot.config, "cameras", None)
        configs = configs if isinstance(configs, dict) else {}
        rates = {name: getattr(config, "fps", None) for name, config in configs.items()}
        return cls(
            [name for name, kind in given.items() if not isinstance(kind, tuple)],
            list(robot.action_features),
            {f"{NAMED}{name}": shape for name, shape in given.items() if isinstance(shape, tuple)},
            {name: float(rate) for name, rate in rates.items() if rate},
        )

    def states_for(self, metadata: dict[str, Any]) -> list[str]:
        """The numbers that a policy reads, in the robot's order; robots may report more than were recorded."""
        names = metadata["observation"].get(STATE, {}).get("names")
        chosen = [name for name in self.state if name in names] if names else self.state
        return chosen if names and len(chosen) == len(names) else self.state


def joint_mismatches(robot: RobotSide, metadata: dict[str, Any]) -> Iterable[Mismatch]:
    """Names, order and number of what the policy reads of the joints and of what it commands."""
    for name, said in metadata["observation"].items():
        if said["dtype"] != "uint8" and name != STATE:
            yield Mismatch(
                "joints",
                f"the policy reads {name}, which robots do not give",
                f"gives {STATE}",
                f"reads {name} {said['shape']}",
                "use a policy that was trained without it",
                passable=False,
            )
    sides = [("state", robot.states_for(metadata), metadata["observation"].get(STATE))]
    sides.append(("action", robot.action, metadata["action"]))
    acting = metadata.get("action_space")
    other = "" if acting is None else f", or act as another robot than {acting!r}: --action-space NAME"
    for what, have, said in sides:
        if said is not None:
            yield from _names(what, have, said, _SAME_ROBOT + other)


def _names(what: str, have: list[str], said: dict[str, Any], same_robot: str) -> Iterable[Mismatch]:
    wanted, count = said.get("names"), said["shape"][0]
    here, there = f"{len(have)}: {', '.join(have)}", f"{count}: {', '.join(wanted)}" if wanted else f"{count} numbers"
    if wanted is None:
        if len(have) != count:
            yield Mismatch("joints", f"the {what} has another size", here, there, same_robot, passable=False)
            return
        fix = "give the data that the policy was trained on: --dataset-root DIR"
        yield Mismatch(
            "joints",
            f"nothing says which joints the policy's {what} is of: its data are not here, or do not name them",
            here,
            there,
            fix,
        )
    elif sorted(wanted) == sorted(have) and wanted != have:
        fix = "configure the robot with its joints in the order of the data, or train with this order"
        yield Mismatch("joints", f"the {what} has its joints in another order", here, there, fix)
    elif wanted != have:
        missing, extra = [n for n in wanted if n not in have], [n for n in have if n not in wanted]
        parts = [("the robot lacks", missing), ("the policy does not know", extra)]
        differ = "; ".join(f"{text} {', '.join(names)}" for text, names in parts if names)
        same_size = len(have) == count
        yield Mismatch(
            "joints", f"the {what} is of other joints: {differ}", here, there, same_robot, passable=same_size
        )


_SAME_ROBOT = "use the robot that the data were recorded with, or a policy trained on data of this one"


def camera_mismatches(robot: RobotSide, metadata: dict[str, Any], *, remote: bool) -> tuple[list[Mismatch], list[str]]:
    """Cameras that the robot lacks, and pictures of another size; with notes on what does not matter.

    Args:
        robot: The robot.
        metadata: The policy's; its names are those after renaming.
        remote: Whether renaming is up to the policy's server.
    """
    wanted = {name: said for name, said in metadata["observation"].items() if said["dtype"] == "uint8"}
    here = ", ".join(f"{name} {_size(shape)}" for name, shape in robot.cameras.items()) or "no camera"
    there = ", ".join(f"{name} {_size(said['shape'])}" for name, said in wanted.items()) or "no camera"
    missing = [name for name in wanted if name not in robot.cameras]
    blind = [name for name in missing if wanted[name].get("optional")] if len(missing) < len(wanted) else []
    missing = [name for name in missing if name not in blind]
    extra = [name for name in robot.cameras if name not in wanted]
    found, notes = [], []
    if missing:
        fix = f"give the robot's {missing[0].removeprefix(NAMED)} with --robot.cameras"
        if extra:
            flag = f"--rename-map {extra[0]}={missing[0]}"
            fix += f", or, if it is another name of the same: {'`hlrp serve` with ' if remote else ''}{flag}"
        found.append(Mismatch("cameras", f"the robot has no {', '.join(missing)}", here, there, fix))
    elif extra:
        notes.append(f"the policy does not look at {', '.join(extra)}; it looks at {there}")
    if blind:
        notes.append(f"the robot has no {', '.join(blind)}: the policy, which was trained on a mixture, sees without")
    for name, said in wanted.items():
        shape, size = tuple(robot.cameras.get(name, ())), tuple(said["shape"])
        if not shape or shape == size:
            continue
        if shape[2:] != size[2:]:
            what, fix = f"{name} has another number of channels", "give a camera like that of the data"
            found.append(Mismatch("cameras", what, here, there, fix, passable=False))
        elif said.get("resized"):
            notes.append(f"{name} comes in {_size(shape)}, the policy was trained on {_size(size)} and resizes")
        else:
            what = f"{name} has another size, and the policy does not resize"
            fix = f"set the camera to width {size[1]} and height {size[0]} with --robot.cameras"
            found.append(Mismatch("cameras", what, here, there, fix))
    return found, notes


def _size(shape: Iterable[int]) -> str:
    height, width, *_ = shape
    return f"{width}x{height}"


def rate_mismatches(robot: RobotSide, metadata: dict[str, Any], asked: float | None) -> tuple[float, list[Mismatch]]:
    """The rate to act at in steps per second, and what differs from it.

    Raises:
        UserError: Neither the policy nor the user says one.
    """
    trained = metadata.get("fps")
    fps = asked or trained
    if fps is None:
        raise UserError(
            "nothing says how many steps per second the policy was trained on: its data are not here",
            where="--fps",
            fix="give the data with --dataset-root DIR, or the rate with --fps N",
        )
    found = []
    if trained and abs(fps - trained) > _SAME_RATE * trained:
        what = "the rate is not that of the data, at which the policy's chunks are spaced"
        found.append(Mismatch("fps", what, f"{fps:g} steps/s (--fps)", f"{trained:g} steps/s", "leave --fps out"))
    slow = {name: rate for name, rate in robot.rates.items() if rate < fps * (1 - _SAME_RATE)}
    if slow:
        here = ", ".join(f"{name} {rate:g} frames/s" for name, rate in slow.items())
        fix = f"set fps: {fps:g} in --robot.cameras"
        found.append(Mismatch("fps", "cameras would show the same frame twice", here, f"{fps:g} steps/s", fix))
    return float(fps), found


def picture_mismatches(robot: RobotSide, observation: dict[str, Any]) -> Iterable[Mismatch]:
    """Pictures of a connected robot that are not what it says of itself."""
    for name, shape in robot.cameras.items():
        picture = observation.get(name.removeprefix(NAMED))
        if not isinstance(picture, np.ndarray) or picture.shape != shape or picture.dtype != np.uint8:
            kind = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else "no picture"
            what, fix = f"{name} is not what the robot says of itself", "correct the camera in --robot.cameras"
            yield Mismatch("cameras", what, kind, f"uint8 {list(shape)}", fix, passable=False)


def refuse(found: list[Mismatch], allowed: Iterable[str]) -> list[str]:
    """Refuse what differs, but for the kinds that the user allows.

    Returns:
        Warnings about what was allowed.

    Raises:
        UserError: Naming every mismatch with both sides.
    """
    allowed = set(allowed)
    refused = [m for m in found if not (m.passable and m.kind in allowed)]
    if refused:
        text = "\n".join(m.lines() for m in refused)
        kinds = " ".join(f"--allow-mismatch {kind}" for kind in dict.fromkeys(m.kind for m in refused if m.passable))
        hint = f"\n  a mismatch that you know to be harmless passes with {kinds}" if kinds else ""
        raise UserError(f"the robot and the policy do not fit, and the robot has not moved\n{text}{hint}")
    return [f"allowed: {m.what} (robot {m.robot}; policy {m.policy})" for m in found]
