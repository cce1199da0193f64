"""How well latents tell actions on episodes that were held out, and what follows: trust, and by how much to stretch.

Shapes: N labelled steps, H steps of a chunk, A action dimensions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hlrp.latents.action_targets import DimensionKind, TargetDimension, Targets

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOOR = 0.5
"""Held-out R2 below which a dimension is not trusted: docs/actions.md says why."""

MOST_STRETCH = 2**0.5
"""Bound of `ActionDimension.factor`; its inverse is the lower one.

A calibrated regression predicts a spread of the root of R2 of the true one: at an R2 of 0.5 this restores it. Below
that, more would only make noise louder.
"""

_CONSTANT = 1e-6


class ActionDimension(BaseModel):
    """One dimension of the action: what it is, and how well the latents tell it on episodes that were held out.

    Every R2 is against the mean of the labelled steps: 1 is perfect, 0 that mean's own score. For a dimension with a
    `state` it is of the difference to the state, which is what the latents have to tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    kind: DimensionKind
    """Whether a number is predicted, one of few values, or the only one that was seen."""
    values: tuple[float, ...] | None
    """The values that were seen, of a classification or a constant."""
    state: int | None
    """Dimension of `observation.state` to which the difference is predicted; none: the action itself is."""
    low: float
    high: float
    """The smallest and the largest value that was seen; predictions are kept between."""
    mean: float
    """Mean of the labelled steps, about which predictions are stretched."""
    r2: float | None
    """Held-out R2; none for a constant."""
    spread: float | None
    """Standard deviation of held-out predictions over that of the labelled actions, before `factor`, over steps all of
    whose windows could be read."""
    factor: float
    """What predictions are stretched by about `mean`."""
    accuracy: float | None
    """Share of held-out steps whose value is told right, of a classification."""
    confidence: float = Field(ge=0, le=1)
    """`r2`, but 0 below the floor; 1 for a constant."""
    no_motion: float | None
    """R2 of the prediction 0: no action, or the state as it is."""
    replay: float | None
    """R2 of repeating, step by step, the labelled episode before (of the same task, if there is one)."""
    by_task: dict[str, float | None]
    """Held-out R2 within each task, against that task's own mean; none where the task does not vary."""

    @property
    def target(self) -> TargetDimension:
        """What is predicted for it."""
        return TargetDimension(self.name, self.kind, self.values, self.state, self.low, self.high)


def r2_scores(predicted: "NDArray[np.float64]", true: "NDArray[np.float64]") -> list[float | None]:
    """R2 of each dimension against the true values' own mean, ``[..., A]``; None where these do not vary."""
    flat, target = predicted.reshape(-1, predicted.shape[-1]), true.reshape(-1, true.shape[-1])
    error, total = ((flat - target) ** 2).sum(0), ((target - target.mean(0)) ** 2).sum(0)
    varies = total > _CONSTANT**2 * len(target)
    return [1 - float(e / t) if v else None for e, t, v in zip(error, total, varies, strict=True)]


def score_dimensions(
    held_out: "NDArray[np.float64]",
    targets: Targets,
    whole: "NDArray[np.bool_]",
    tasks: Sequence[str],
    floor: float,
) -> list[ActionDimension]:
    """Score held-out predictions dimension by dimension.

    Args:
        held_out: ``[N, H, A]``.
        targets: The true values.
        whole: Steps all of whose windows could be read, ``[N]``: the others are told less of, and spread less.
        tasks: Task of each episode of the dataset.
        floor: R2 below which a dimension is not trusted.
    """
    true = targets.values
    scores = r2_scores(held_out, true)
    still = r2_scores(np.zeros_like(true), true)
    repeated = _replay(targets, tasks)
    again = r2_scores(repeated, true) if repeated is not None else [None] * len(scores)
    task_of = np.asarray([tasks[e] for e in targets.episode.tolist()])
    by_task = {task: r2_scores(held_out[task_of == task], true[task_of == task]) for task in sorted(set(task_of))}
    found = []
    for number, dimension in enumerate(targets.dimensions):
        r2 = None if dimension.kind == "constant" else scores[number]
        predicted, wanted = held_out[..., number], true[..., number]
        spread = None if r2 is None else _ratio(predicted, wanted, whole)
        regression = dimension.kind == "regression"
        found.append(
            ActionDimension(
                name=dimension.name,
                kind=dimension.kind,
                values=dimension.values,
                state=dimension.state,
                low=dimension.low,
                high=dimension.high,
                mean=float(wanted.mean()),
                r2=r2,
                spread=spread,
                factor=stretch(r2, spread, floor) if regression else 1.0,
                accuracy=float((np.abs(predicted - wanted) <= _CONSTANT).mean())
                if dimension.kind == "classification"
                else None,
                confidence=confidence_of(r2, floor),
                no_motion=still[number],
                replay=again[number],
                by_task={task: values[number] for task, values in by_task.items()},
            )
        )
    return found


def _ratio(predicted: "NDArray[np.float64]", true: "NDArray[np.float64]", whole: "NDArray[np.bool_]") -> float:
    """The spread of predictions over the true one, over steps that are ``whole`` if these vary."""
    if whole.any() and true[whole].std() > _CONSTANT:
        predicted, true = predicted[whole], true[whole]
    return float(predicted.std() / true.std())


def confidence_of(r2: float | None, floor: float) -> float:
    """Held-out R2 where it reaches the floor, within [0, 1]; 0 below; 1 for what never changes."""
    if r2 is None:
        return 1.0
    return min(max(r2, 0.0), 1.0) if r2 >= floor else 0.0


def stretch(r2: float | None, spread: float | None, floor: float) -> float:
    """Factor that brings the spread of predictions to that of the labelled actions.

    Held-out predictions say what the spread is; the factor lies within `MOST_STRETCH` and its inverse, and is 1 for a
    dimension below the floor: what is mostly noise is not made louder.
    """
    if r2 is None or not spread or r2 < floor:
        return 1.0
    return min(max(1 / spread, 1 / MOST_STRETCH), MOST_STRETCH)


def _replay(targets: Targets, tasks: Sequence[str]) -> "NDArray[np.float64] | None":
    """The values of the labelled episode before each, at the same step or its last; None with one episode alone."""
    ids = np.unique(targets.episode).tolist()
    if len(ids) < 2:
        return None
    result = np.empty_like(targets.values)
    for number, episode in enumerate(ids):
        # The first has none before it: it is told by the last, as those after it are by the one before.
        before = [*ids[number + 1 :], *ids[:number]]
        same = [other for other in before if tasks[other] == tasks[episode]]
        source = targets.values[targets.episode == (same or before)[-1]]
        mine = targets.episode == episode
        result[mine] = source[np.arange(int(mine.sum())).clip(0, len(source) - 1)]
    return result
