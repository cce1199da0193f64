"""The actions that an action decoder is fitted on: of the labelled episodes alone, and the form that they have.

Shapes: N labelled steps, A action dimensions, H steps of a chunk, C columns that a regression predicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hlrp.data.columns import read_column
from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.episodes import Episodes
from hlrp.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATE = "observation.state"
ActionForm = Literal["direct", "state_difference"]
DimensionKind = Literal["regression", "classification", "constant"]

FAR_CLOSER = 0.25
"""An action is a position if it lies this much closer to the state than to the mean action, in squared distance."""

MOST_VALUES = 4
"""Different values of a dimension, in all labelled episodes, up to which it is told by classification."""

_STEPS_PER_VALUE = 10
_CONSTANT = 1e-6


def feature_names(info: DatasetInfo, feature: str) -> list[str]:
    """Names of a feature's numbers; where the dataset has none: the feature's own with a number."""
    names: Any = info.features[feature].get("names")
    width = width_of(info, feature)
    if isinstance(names, dict) and len(names) == 1:
        names = next(iter(names.values()))
    if isinstance(names, list | tuple) and len(names) == width:
        return [str(name) for name in names]
    return [f"{feature.removeprefix('observation.')}_{number}" for number in range(width)]


def width_of(info: DatasetInfo, feature: str) -> int:
    """Numbers of a feature."""
    return int(np.prod(info.features[feature]["shape"]))


@dataclass(frozen=True)
class TargetDimension:
    """One dimension of the action as it is predicted.

    Args:
        name: Its name.
        kind: Whether a number is predicted, one of few values, or the only one that was seen.
        values: The values that were seen, ascending, of a classification or a constant; else None.
        state: Dimension of the state that its difference is taken to; None: the action itself is predicted.
        low, high: Smallest and largest target that was seen.
    """

    name: str
    kind: DimensionKind
    values: tuple[float, ...] | None
    state: int | None
    low: float
    high: float

    @property
    def width(self) -> int:
        """Columns that a regression predicts for it."""
        return len(self.values) if self.kind == "classification" and self.values else 1


@dataclass(frozen=True)
class Targets:
    """Labelled steps.

    Args:
        episode: int64 ``[N]``.
        step: Frame within its episode, int64 ``[N]``.
        values: Actions, or their differences to the state at the step, float64 ``[N, H, A]``.
        dimensions: What is predicted, A of them.
    """

    episode: "NDArray[np.int64]"
    step: "NDArray[np.int64]"
    values: "NDArray[np.float64]"
    dimensions: tuple[TargetDimension, ...]

    def columns(self) -> "NDArray[np.float64]":
        """What a regression predicts, ``[N, H * C]``: a dimension's value, or one column for each of its values."""
        parts = []
        for number, dimension in enumerate(self.dimensions):
            of_dimension = self.values[..., number, None]
            if dimension.kind == "classification" and dimension.values:
                of_dimension = (np.abs(of_dimension - np.asarray(dimension.values)) <= _CONSTANT).astype(np.float64)
            parts.append(of_dimension)
        return np.concatenate(parts, axis=-1).reshape(len(self.values), -1)


def column_slices(dimensions: Sequence[TargetDimension]) -> list[slice]:
    """Where the columns of each dimension lie among those of one step."""
    ends = np.cumsum([d.width for d in dimensions]).tolist()
    return [slice(end - d.width, end) for d, end in zip(dimensions, ends, strict=True)]


def from_columns(
    columns: "NDArray[np.float64]", dimensions: Sequence[TargetDimension], horizon: int
) -> "NDArray[np.float64]":
    """The inverse of `Targets.columns` for predictions: ``[n, H * C]`` to values ``[n, H, A]``."""
    split = columns.reshape(len(columns), horizon, -1)
    result = np.empty((*split.shape[:2], len(dimensions)))
    for number, (dimension, columns_of) in enumerate(zip(dimensions, column_slices(dimensions), strict=True)):
        if dimension.kind == "classification" and dimension.values:
            result[..., number] = np.asarray(dimension.values)[split[..., columns_of].argmax(-1)]
        elif dimension.kind == "constant" and dimension.values:
            result[..., number] = dimension.values[0]
        else:
            result[..., number] = split[..., columns_of.start]
    return result


def read_targets(
    info: DatasetInfo, table: Episodes, episodes: Sequence[int], form: ActionForm | Literal["auto"], horizon: int
) -> Targets:
    """The labelled steps of some episodes; steps whose chunk is not whole or not finite are left out.

    Args:
        info: The dataset.
        table: Its episodes.
        episodes: The labelled ones: no row of another one is looked at.
        form: Whether the action or its difference to the state is predicted; auto: dimension by dimension, as the
            labelled steps are.
        horizon: Actions H from a step on.

    Raises:
        UserError: The dataset has no actions, no usable one in these episodes, or no state to take differences to.
    """
    if "action" not in info.features:
        raise UserError(
            "the dataset has no feature 'action'",
            where=str(info.root / INFO),
            fix="label it from another dataset's decoder",
        )
    rows = table.frame_indices(list(episodes))
    actions = read_column(info, "action", list(episodes)).astype(np.float64)
    states = read_column(info, STATE, list(episodes)).astype(np.float64) if STATE in info.features else None
    episode = table.episode_of(rows)
    chunk = rows[:, None] + np.arange(horizon)
    whole = chunk[:, -1] < table.end[episode]
    rows, episode, chunk = rows[whole], episode[whole], chunk[whole]
    good = np.isfinite(actions[chunk]).all((1, 2))
    state_of = _state_dimensions(info, actions[rows[good]], None if states is None else states[rows[good]], form)
    if states is not None and any(s is not None for s in state_of):
        good &= np.isfinite(states[rows]).all(1)
    rows, episode, chunk = rows[good], episode[good], chunk[good]
    if len(rows) < 2:
        raise UserError(
            f"the labelled episodes {list(episodes)[:5]} have no steps with actions that are finite numbers",
            where=f"--episodes, {info.root}",
            fix="choose other episodes; hlrp data check says what is wrong with these",
        )
    values = actions[chunk]
    for number, state in enumerate(state_of):
        if state is not None and states is not None:
            values[..., number] -= states[rows, state][:, None]
    names = feature_names(info, "action")
    dimensions = tuple(_dimension(names[d], values[..., d], state_of[d]) for d in range(values.shape[2]))
    return Targets(episode, rows - table.start[episode], values, dimensions)


def _dimension(name: str, values: "NDArray[np.float64]", state: int | None) -> TargetDimension:
    seen, low, high = np.unique(values), float(values.min()), float(values.max())
    if high - low <= _CONSTANT:
        return TargetDimension(name, "constant", (low,), state, low, high)
    if len(seen) <= MOST_VALUES and len(seen) * _STEPS_PER_VALUE <= values.size:
        return TargetDimension(name, "classification", tuple(seen.tolist()), state, low, high)
    return TargetDimension(name, "regression", None, state, low, high)


def _state_dimensions(
    info: DatasetInfo,
    actions: "NDArray[np.float64]",
    states: "NDArray[np.float64] | None",
    form: ActionForm | Literal["auto"],
) -> list[int | None]:
    """The state dimension that each action dimension is a position of."""
    width = actions.shape[1]
    if form == "direct" or (states is None and form == "auto"):
        return [None] * width
    if states is None:
        raise UserError(
            f"the dataset has no feature {STATE!r} to take differences to",
            where=f"--action-form, {info.root / INFO}",
            fix="use --action-form direct, or a dataset with the state",
        )
    partner = _partners(info)
    if form == "state_difference":
        if None in partner:
            lonely = feature_names(info, "action")[partner.index(None)]
            raise UserError(
                f"action {lonely!r} has no dimension of {STATE!r} beside it: names differ, and {width} actions stand "
                f"against {states.shape[1]} states",
                where="--action-form",
                fix="use --action-form direct",
            )
        return partner
    near = [
        state is not None and ((actions[:, d] - states[:, state]) ** 2).mean() < FAR_CLOSER * actions[:, d].var()
        for d, state in enumerate(partner)
    ]
    # A joint that hardly moves in the labelled episodes is a position as its neighbours are.
    positions = sum(near) > (width - partner.count(None)) / 2
    return [state if close or positions else None for state, close in zip(partner, near, strict=True)]


def _partners(info: DatasetInfo) -> list[int | None]:
    """The state dimension of each action dimension: of the same name, else of the same number in vectors as wide."""
    actions, states = feature_names(info, "action"), feature_names(info, STATE)
    if set(actions) & set(states):
        return [states.index(name) if name in states else None for name in actions]
    return list(range(len(actions))) if len(actions) == len(states) else [None] * len(actions)
