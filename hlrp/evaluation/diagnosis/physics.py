"""Whether the environment moves as the recorded one did: rate, units and order of joints, recorded actions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlrp.evaluation.diagnosis.findings import Finding, failed, passed, undecided
from hlrp.evaluation.diagnosis.recorded import ACTION, STATE, Recorded, Row
from hlrp.evaluation.diagnosis.simulator import Simulator
from hlrp.evaluation.replay import REPRODUCED, Played
from hlrp.evaluation.units import CONVERSIONS, Reading

_SAME_STATE = 0.1
"""Of the spread of the data: the first state of a seed is the same but for other processors' arithmetic."""
_EXPLAINS = 0.5
_LAGS = (-3, -2, -1, 1, 2, 3)
_EXACT = 1e-3
"""Of the spread: below it nothing is left to be explained."""


@dataclass(frozen=True)
class States:
    """What the check of the first states found, and what it means for the states of a replay.

    Args:
        finding: For the report.
        factor: What the environment's states are multiplied with to be in the units of the data, `[D]`.
        order: Which of the environment's dimensions each one of the data is, `[D]`.
    """

    finding: Finding
    factor: NDArray[np.float64]
    order: NDArray[np.int64]

    def as_recorded(self, states: NDArray[np.float32]) -> NDArray[np.float64]:
        """States of the environment `[T, D]` as the data have them."""
        return states[:, self.order] * self.factor


def check_first_states(seen: NDArray[np.float32], recorded: Recorded) -> States:
    """Compare first states of the environment with the recorded ones.

    Args:
        seen: Of the environment `[n, D]`; of a dataset with reset seeds those of its rows, in their order.
        recorded: The data, with states of as many dimensions.
    """
    names, spread = recorded.joints(STATE), recorded.spread(STATE)
    width = len(names)
    same, order = np.ones(width), np.arange(width)
    values = recorded.numbers(STATE)
    assert values is not None
    if not recorded.seeded:
        return States(_unpaired(seen, recorded, names), same, order)
    theirs = np.stack([values[row.start] for row in recorded.rows]).astype(np.float64)

    def error(factor: NDArray[np.float64], by: NDArray[np.int64]) -> NDArray[np.float64]:
        return (np.abs(seen[:, by] * factor - theirs) / spread).max(0)

    plain = error(same, order)
    evidence = {"differences": {n: round(float(e), 4) for n, e in zip(names, plain, strict=True)}}
    if plain.max() <= _SAME_STATE:
        text = f"the first states of the recorded seeds are the recorded ones (to {plain.max():.2g} of their spread)"
        return States(passed("environment", "states", text, **evidence), same, order)
    worst = int(np.argmax(plain))
    both = f"{names[worst]} {seen[0, worst]:.4g}, recorded {theirs[0, worst]:.4g}"
    for number, here, there in CONVERSIONS:
        converted = error(np.full(width, number), order)
        if np.minimum(converted, plain).max() <= _SAME_STATE:
            joints = [n for n, before, after in zip(names, plain, converted, strict=True) if after < before]
            # A joint that begins at zero does so in either unit; a gripper has none.
            turned = [
                after <= before and "gripper" not in n for n, before, after in zip(names, plain, converted, strict=True)
            ]
            factor = np.where(turned, number, 1.0)
            text = f"it gives {', '.join(joints)} in {here}, the data are in {there}: {both}"
            fix = f"give the state in {there}"
            fault = failed("environment", "states", "other_unit", text, fix, factor=round(1 / number, 3), **evidence)
            return States(fault, factor, order)
    moved = np.array([int(np.argmin(np.abs(seen - theirs[:, [d]]).max(0))) for d in range(width)])
    if len(set(moved.tolist())) == width and error(same, moved).max() <= _SAME_STATE:
        said = ", ".join(names[d] for d in moved)
        text = f"it gives the joints in another order than the data: {said} stand where {', '.join(names)} do"
        fault = failed(
            "environment", "states", "joint_order", text, "give the state in the order of the data", **evidence
        )
        return States(fault, same, moved)
    text = f"the first state of a recorded seed is another one: {both}, off by {plain[worst]:.2g} of its spread"
    fix = "compare task, settings and package versions with the recording's (meta/hlrp_collect.json)"
    return States(failed("environment", "states", "state_differs", text, fix, **evidence), same, order)


def _unpaired(seen: NDArray[np.float32], recorded: Recorded, names: list[str]) -> Finding:
    """Without reset seeds: whether the environment begins near any recorded pose."""
    poses = np.concatenate(recorded.by_episode(STATE))
    low, high = poses.min(0).astype(float), poses.max(0).astype(float)
    for state in seen:
        reading = Reading(names, state.astype(float), low, high, poses, source="environment")
        if problem := reading.problem():
            text = f"{problem} ({reading.robot_side()}; data {reading.data_side()})"
            fault = "other_unit" if "factor" in problem else "state_differs"
            return failed("environment", "states", fault, text, "give the state in the units of the data")
    return passed("environment", "states", "the environment begins within the range of the recorded states")


def check_rate(rate: float, recorded: Recorded, replayed: Finding | None) -> Finding:
    """Whether environment and data have as many steps per second; a replay that succeeds says more than both.

    Args:
        rate: The environment's.
        recorded: The data.
        replayed: What `check_replay` found.
    """
    fps = recorded.info.fps
    if abs(rate - fps) <= 0.01 * fps:
        return passed("environment", "rate", f"environment and data have {fps:g} steps per second", fps=fps)
    text = f"it makes {rate:g} steps per second, the data have {fps:g}"
    if replayed is not None and replayed.status == "pass":
        return undecided(
            "environment", "rate", f"{text}, but recorded actions do in it what they did", rate=rate, fps=fps
        )
    fix = f"set the environment's rate to that of the data (env.fps={fps:g}), or record and train at {rate:g}"
    return failed("environment", "rate", "other_rate", text, fix, rate=rate, fps=fps)


@dataclass(frozen=True)
class _Replay:
    """A recorded episode played: success, its length, and the mean difference of its states in spreads (None: none)."""

    success: bool
    length: int
    error: float | None
    apart_at: int | None


def check_replay(
    plays: Sequence[tuple[Simulator, Row]], recorded: Recorded, states: States | None, *, same_rate: bool
) -> Finding:
    """Play recorded actions; where they do other things than then, find out whether shifted or in another unit.

    Args:
        plays: Recorded episodes with reset seeds, and the environment of each.
        recorded: The data.
        states: What is known of the units of the states; None: they cannot be compared.
        same_rate: Whether environment and data have as many steps per second: else none of that is looked for.
    """
    found = [_replay(simulator, row, recorded, states) for simulator, row in plays]
    succeeded, count = sum(one.success for one in found), len(found)
    error = _mean([one.error for one in found])
    evidence: dict[str, Any] = {"episodes": count, "successes": succeeded, "state_error": error}
    if same_rate and error is not None and error > _EXACT:
        change, left = _best_change(plays[:2], recorded, states)
        before = _mean_error(found[:2])
        if left <= _EXPLAINS * before:
            off = f"played as they are the states are off by {before:.2g} of their spread, {{}} by {left:.2g}"
            return change.finding(off, evidence)
    said = "" if error is None else f", states off by {error:.2g} of their spread"
    if succeeded >= REPRODUCED * count:
        return passed(
            "environment", "replay", f"recorded actions succeed again in {succeeded} of {count}{said}", **evidence
        )
    short = [one.length for one, (_, row) in zip(found, plays, strict=True) if one.length < row.length]
    apart = [one.apart_at for one in found if one.apart_at is not None]
    text = f"recorded actions succeed again in {succeeded} of {count} episodes{said}"
    if len(short) > len(found) / 2 and not apart:
        text += f"; it ends them after {min(short)} steps"
        fix = "raise env.episode_length"
    else:
        text += f"; states are apart from step {min(apart)} on" if apart else ""
        fix = "compare its settings and package versions with the recording's"
    return failed("environment", "replay", "replay_differs", text, fix, **evidence)


@dataclass(frozen=True)
class _Change:
    """A change of recorded actions: shifted in time by ``lag`` steps, or in another unit."""

    lag: int = 0
    factor: float = 1.0
    units: tuple[str, str] = ("", "")

    def __call__(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        later = np.clip(np.arange(len(actions)) + self.lag, 0, len(actions) - 1)
        return actions[later] * np.float32(self.factor)

    def finding(self, off: str, evidence: Mapping[str, Any]) -> Finding:
        """The fault that this change explains."""
        if self.lag:
            when = f"{abs(self.lag)} step{'s' if abs(self.lag) > 1 else ''} too {'late' if self.lag > 0 else 'early'}"
            text = f"the actions are recorded {when}: {off.format('shifted back')}"
            fix = "record again, or shift the column of actions, and train again"
            return failed("data", "replay", "actions_shifted", text, fix, lag=self.lag, **evidence)
        takes, have = self.units
        text = f"it takes actions in {takes}, the data have {have}: {off.format('converted')}"
        return failed(
            "environment", "replay", "other_unit", text, f"have it take {have}", factor=self.factor, **evidence
        )


_AS_RECORDED = _Change()


def _replay(
    simulator: Simulator, row: Row, recorded: Recorded, states: States | None, change: _Change = _AS_RECORDED
) -> _Replay:
    actions = recorded.of(ACTION, row)
    assert actions is not None and row.seed is not None
    played = simulator.play(row.seed, change(actions))
    off = _off(played, row, recorded, states)
    if off is None:
        return _Replay(played.success, played.length, None, None)
    apart = np.flatnonzero(off > 1.0)
    return _Replay(played.success, played.length, float(off.mean()), int(apart[0]) if len(apart) else None)


def _off(played: Played, row: Row, recorded: Recorded, states: States | None) -> NDArray[np.float64] | None:
    """How far the states are from the recorded ones, in spreads: the worst joint at each step `[T]`."""
    theirs = recorded.of(STATE, row)
    if states is None or theirs is None or played.states is None:
        return None
    ours = states.as_recorded(played.states)
    return (np.abs(ours - theirs[: len(ours)]) / recorded.spread(STATE)).max(1)


def _best_change(
    plays: Sequence[tuple[Simulator, Row]], recorded: Recorded, states: States | None
) -> tuple[_Change, float]:
    """The change of the actions that leaves the least of the states' differences, and what it leaves."""
    changes = [_Change(lag=lag) for lag in _LAGS]
    # What turns degrees into radians does so for an environment that takes radians.
    changes += [_Change(factor=factor, units=(there, here)) for factor, here, there in CONVERSIONS]
    left = [_mean_error([_replay(*play, recorded, states, change) for play in plays]) for change in changes]
    best = int(np.argmin(left))
    return changes[best], left[best]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mean_error(found: Sequence[_Replay]) -> float:
    return float(np.mean([one.error for one in found if one.error is not None]))
