"""How much a robot moves, from its recorded actions and states: one number a frame."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hlrp.data.columns import read_columns
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import Episodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACTION, STATE = "action", "observation.state"
_SAMPLED = 200_000
"""Rows, evenly spread, from which ranges and correlations are computed."""

_LEAST_RANGE = 0.25
"""Of the median range in a column: a joint that is hardly used is not judged by its tremor."""


def robot_motion(
    info: DatasetInfo, table: Episodes, episodes: Sequence[int], offset: int
) -> "NDArray[np.float32] | None":
    """The robot's motion at every frame: the largest over the dimensions of `action` and `observation.state`.

    - A position: its change from the frame to the one ``offset`` later, over its range (1st to 99th percentile of the
      episodes), which counts as a quarter of the median of its column's at least.
    - A speed, see `rate_dimensions`: the size of its mean over these frames, over the 99th percentile of its size.

    At frames whose second one would lie past the end it is that of the last pair. Numbers that are not finite say
    nothing.

    Args:
        info: The dataset.
        table: Its episode table.
        episodes: Episodes that count.
        offset: Frames, > 0.

    Returns:
        float32 `[frames]`, NaN outside ``episodes``; None: the dataset has neither column.
    """
    values = numbers_of(info, episodes)
    if not values:
        return None
    rows = _sample(table, episodes)
    rates = rate_dimensions(values.get(ACTION), values.get(STATE), table, rows)
    result = np.full(info.frames, np.nan, np.float32)
    scales = {name: _scales(x[rows], rates if name == ACTION else None) for name, x in values.items()}
    for episode in episodes:
        span = slice(int(table.start[episode]), int(table.end[episode]))
        motion = np.zeros(span.stop - span.start)
        for name, x in values.items():
            moved = _moved(x[span].astype(np.float64), rates if name == ACTION else None, offset)
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = np.where(scales[name] > 0, moved / scales[name], 0)
            motion = np.maximum(motion, np.nan_to_num(shares, posinf=0).max(1, initial=0))
        result[span] = motion
    return result


def numbers_of(info: DatasetInfo, episodes: Sequence[int] | None) -> "dict[str, NDArray[np.float32]]":
    """The columns of actions and states that a dataset has, float32 `[frames, width]` each."""
    names = [n for n in (ACTION, STATE) if n in info.features]
    found = read_columns(info, names, episodes) if names else {}
    return {n: found[n].reshape(info.frames, -1).astype(np.float32, copy=False) for n in names}


def rate_dimensions(
    actions: "NDArray[np.float32] | None",
    states: "NDArray[np.float32] | None",
    table: Episodes,
    rows: "NDArray[np.int64] | None" = None,
) -> "NDArray[np.bool_]":
    """Which dimensions of the action are speeds or steps (deltas) rather than positions.

    A dimension is a speed if it correlates better with how some dimension of the state is about to change than with
    where any of them is. A position target follows the state's value; a gripper command that is held at its end does
    too, so it counts as a position, of which only the change matters. Without states all are taken for positions.

    Args:
        actions: `[frames, A]`; None: there are none.
        states: `[frames, S]`.
        table: Episode table.
        rows: Global frame indices to look at; none: all.

    Returns:
        bool `[A]`.
    """
    width = 0 if actions is None else actions.shape[1]
    if actions is None or states is None:
        return np.zeros(width, bool)
    at = np.arange(len(actions)) if rows is None else rows
    at = at[at + 1 < table.end[table.episode_of(at)]]
    action, state = actions[at].astype(np.float64), states[at].astype(np.float64)
    change = states[at + 1].astype(np.float64) - state
    finite = np.isfinite(action).all(1) & np.isfinite(state).all(1) & np.isfinite(change).all(1)
    if finite.sum() < 2:
        return np.zeros(width, bool)
    to_value, to_change = (_best_correlation(action[finite], other[finite]) for other in (state, change))
    return to_change > to_value


def _sample(table: Episodes, episodes: Sequence[int]) -> "NDArray[np.int64]":
    rows = table.frame_indices(list(episodes))
    return rows[:: max(1, len(rows) // _SAMPLED)]


def _best_correlation(first: "NDArray[np.float64]", second: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Largest absolute correlation of each column of ``first`` with one of ``second``; 0 for what is constant."""
    first, second = first - first.mean(0), second - second.mean(0)
    sizes = np.sqrt((first**2).sum(0))[:, None] * np.sqrt((second**2).sum(0))[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(sizes > 0, abs(first.T @ second) / sizes, 0)
    best: NDArray[np.float64] = correlation.max(1, initial=0)
    return best


def _scales(x: "NDArray[np.float32]", rates: "NDArray[np.bool_] | None") -> "NDArray[np.float64]":
    """What a motion of 1 is, per dimension: 0 where nothing ever changes."""
    finite = np.where(np.isfinite(x), x, np.nan).astype(np.float64)
    finite = finite[~np.isnan(finite).all(1)]
    if not len(finite):
        return np.zeros(x.shape[1])
    with np.errstate(all="ignore"):
        low, high = np.nanpercentile(finite, [1, 99], axis=0)
        largest = np.nanpercentile(abs(finite), 99, axis=0)
        changes = np.nanmax(finite, axis=0) > np.nanmin(finite, axis=0)
    scale = np.nan_to_num(np.where(rates, largest, high - low) if rates is not None else high - low)
    used = scale[scale > 0]
    if not len(used):
        # What changes in fewer than a hundredth of the rows has no range between these percentiles.
        return np.where(changes, np.nan_to_num(np.nanmax(finite, axis=0) - np.nanmin(finite, axis=0)), 0)
    return np.where(changes, np.maximum(scale, _LEAST_RANGE * np.median(used)), 0)


def _moved(x: "NDArray[np.float64]", rates: "NDArray[np.bool_] | None", offset: int) -> "NDArray[np.float64]":
    """Change of positions over ``offset`` frames, and size of the mean of speeds over as many, `[n, width]`."""
    length = len(x)
    step = min(offset, max(1, length - 1))
    moved = abs(x[step:] - x[:-step]) if length > 1 else np.zeros_like(x)
    if rates is not None and rates.any():
        sums = np.cumsum(np.pad(np.nan_to_num(x[:, rates]), ((1, 0), (0, 0))), axis=0)
        mean = abs(sums[step:] - sums[:-step])[: len(moved)] / step
        moved[:, rates] = mean
    return np.pad(moved, ((0, length - len(moved)), (0, 0)), mode="edge")
