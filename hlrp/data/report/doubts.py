"""Episodes that a person should look at before anything is trained on them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hlrp.data.episodes import Episodes
from hlrp.data.filtering import runs_of
from hlrp.data.images import BadVideoError
from hlrp.data.table_checks import wrong_steps

_SHORT, _LONG, _ENOUGH = 0.25, 4.0, 4
"""Of the median length of the episodes with the same instruction, where there are that many."""

_MOSTLY_IDLE = 0.9
_BLACK, _DARK = 4.0, 10.0
"""Mean grey level of a black picture, and the median below which a dataset is dark on purpose."""

_FROZEN, _FROZEN_MOVING, _FROZEN_S = 0.05, 0.1, 1.0
"""Motion of a picture that does not change at all, of a robot that moves well, and for how long."""

_FROZEN_ALONE_S = 3.0
_JUMP, _JUMP_RANGE, _JUMP_EPISODES = 10.0, 0.25, 0.2
_FAR = 3.0


class Doubt(NamedTuple):
    """Why an episode is doubtful.

    Args:
        episode: Its number.
        kind: `unreadable`, `length`, `idle`, `frozen`, `black`, `jump`, `outlier`, `not finite` or `times`.
        message: What was found.
        frame: Where it begins inside the episode; None: it is the whole.
    """

    episode: int
    kind: str
    message: str
    frame: int | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a dataset's frames, by global frame index.

    Args:
        table: Episode table.
        episodes: Those that are looked at.
        values: Column to its numbers, `[frames, width]`.
        rates: Which dimensions of the action are speeds, `[A]`.
        stamps: Time of each frame in its episode, in seconds.
        scores: Camera to its motion and brightness, `[2, frames]`.
        robot: The robot's motion; None: there are no numbers.
        quiet: Frames in idle runs; None: nothing says.
        bad: Episodes that cannot be decoded.
    """

    table: Episodes
    episodes: Sequence[int]
    values: Mapping[str, NDArray[np.float32]]
    rates: NDArray[np.bool_]
    stamps: NDArray[np.float32]
    scores: Mapping[str, NDArray[np.float32]]
    robot: NDArray[np.float32] | None
    quiet: NDArray[np.bool_] | None
    bad: Mapping[int, BadVideoError]


def find_doubts(evidence: Evidence) -> list[Doubt]:
    """All doubts, ordered by episode; of each kind the first in an episode."""
    found = [
        *(Doubt(e, "unreadable", f"cannot be decoded: {error.reason}") for e, error in evidence.bad.items()),
        *_lengths(evidence),
        *_idle(evidence),
        *_pictures(evidence),
        *_numbers(evidence),
        *_times(evidence),
    ]
    return sorted(found, key=lambda doubt: (doubt.episode, doubt.kind))


def _lengths(evidence: Evidence) -> Iterator[Doubt]:
    table, fps = evidence.table, evidence.table.info.fps
    by_task: dict[str, list[int]] = {}
    for e in evidence.episodes:
        by_task.setdefault(table.task[e], []).append(e)
    for group in by_task.values():
        median = float(np.median(table.lengths[group]))
        for e in group if len(group) >= _ENOUGH else []:
            length = int(table.lengths[e])
            if length < _SHORT * median or length > _LONG * median:
                what = "short" if length < median else "long"
                yield Doubt(
                    e, "length", f"{length / fps:.2f} s is {what}: the median of its task is {median / fps:.2f} s"
                )


def _idle(evidence: Evidence) -> Iterator[Doubt]:
    for e in evidence.episodes if evidence.quiet is not None else []:
        share = float(evidence.quiet[_span(evidence, e)].mean())  # type: ignore[index]
        if share >= _MOSTLY_IDLE:
            yield Doubt(e, "idle", f"hardly anything moves: {share:.0%} is idle")


def _pictures(evidence: Evidence) -> Iterator[Doubt]:
    fps = evidence.table.info.fps
    for camera, (motion, brightness) in evidence.scores.items():
        dark = np.nanmedian(brightness) < _DARK if np.isfinite(brightness).any() else True
        for e in evidence.episodes:
            span = _span(evidence, e)
            black = np.flatnonzero(brightness[span] < _BLACK)
            if len(black) and not dark:
                yield Doubt(e, "black", f"{camera}: {len(black)} black frames", int(black[0]))
            still = motion[span] < _FROZEN
            if evidence.robot is not None:
                still &= evidence.robot[span] >= _FROZEN_MOVING
            least = max(2, round((_FROZEN_S if evidence.robot is not None else _FROZEN_ALONE_S) * fps))
            for begin, end in runs_of(still):
                if end - begin >= least:
                    why = " while the robot moves" if evidence.robot is not None else ""
                    yield Doubt(e, "frozen", f"{camera}: no pixel changes for {(end - begin) / fps:.1f} s{why}", begin)
                    break


def _numbers(evidence: Evidence) -> Iterator[Doubt]:
    table, rows = evidence.table, evidence.table.frame_indices(list(evidence.episodes))
    inside = rows[rows + 1 < table.end[table.episode_of(rows)]]
    for name, numbers in evidence.values.items():
        missing: NDArray[np.int64] = rows[~np.isfinite(numbers[rows]).all(1)]
        yield from _first_of_each(evidence, missing, "not finite", f"{name}: COUNT rows hold no number")
        for d in range(numbers.shape[1]):
            x = numbers[:, d].astype(np.float64)
            far = rows[outliers(x[rows])]
            yield from _first_of_each(
                evidence, far, "outlier", f"{name}[{d}]: COUNT numbers far outside the usual range"
            )
            if name == "action" and evidence.rates[d]:
                continue  # a speed may change at once
            jumps = inside[_jumps(x[inside], x[inside + 1])]
            if len(set(table.episode_of(jumps).tolist())) > max(1, _JUMP_EPISODES * len(evidence.episodes)):
                continue  # it is how this dimension moves
            yield from _first_of_each(evidence, jumps, "jump", f"{name}[{d}] jumps by more than a quarter of its range")


def _times(evidence: Evidence) -> Iterator[Doubt]:
    fps = evidence.table.info.fps
    for e in evidence.episodes:
        wrong = wrong_steps(evidence.stamps[_span(evidence, e)].astype(np.float64), fps)
        if len(wrong):
            yield Doubt(
                e, "times", f"{len(wrong)} frames do not come 1/{fps:g} s after the one before", int(wrong[0]) + 1
            )


def outliers(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Numbers farther outside the 1st to 99th percentile than three times the distance between these two."""
    finite = x[np.isfinite(x)]
    if not len(finite):
        return np.zeros(len(x), bool)
    low, high = np.percentile(finite, [1, 99])
    reach = _FAR * (high - low)
    return np.isfinite(x) & ((x < low - reach) | (x > high + reach)) & (reach > 0)


def _jumps(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Steps far beyond the dimension's usual ones that are a good part of its range too."""
    change = np.nan_to_num(abs(after - before))
    if not len(change):
        return np.zeros(0, bool)
    usual = np.percentile(change, 99)
    low, high = np.nanpercentile(before, [1, 99]) if np.isfinite(before).any() else (0.0, 0.0)
    return (change > _JUMP * usual) & (change > _JUMP_RANGE * (high - low)) & (usual > 0)


def _first_of_each(evidence: Evidence, frames: NDArray[np.int64], kind: str, text: str) -> Iterator[Doubt]:
    """One doubt an episode that ``frames`` lie in; COUNT in the text is how many do."""
    episodes = evidence.table.episode_of(frames)
    for e in np.unique(episodes).tolist():
        mine = frames[episodes == e]
        yield Doubt(e, kind, text.replace("COUNT", str(len(mine))), int(mine[0] - evidence.table.start[e]))


def _span(evidence: Evidence, episode: int) -> slice:
    return slice(int(evidence.table.start[episode]), int(evidence.table.end[episode]))
