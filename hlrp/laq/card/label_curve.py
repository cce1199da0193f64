"""How well actions are told with k labelled episodes a task: the question that decides whether latents are worth it.

Ridge regressions from features of a pair of frames to its summed actions, fitted on k episodes of every task, strength
chosen among these alone, scored on the others. Of those no action is used before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hlrp.laq.card.probe import ProbeInputs
from hlrp.laq.ridge import STRENGTHS, ridge_with_intercept

COUNTS = (1, 2, 5)
"""Labelled episodes a task that are tried."""

VECTORS, CODES, RANDOM, CHANGES, FRAMES = "vectors", "codes", "random", "changes", "frames"
"""What actions are told from: continuous latents, codes, latents of random quantizers, pixel differences, the frame."""

_DRAWS = 10
_COMPONENTS = 64  # of pictures: more than that few episodes cannot tell apart
_FOLDS = 5  # of the labelled episodes, or of the only one's frames, left out one after another
_WORST = -1.0
_CONSTANT = 1e-6


@dataclass(frozen=True)
class LabelPoint:
    """R2 with so many labelled episodes a task, over draws of which these are.

    Args:
        mean: Over draws and the action dimensions that vary; a dimension below -1 counts as -1.
        low: Of the worst draw.
        high: Of the best one.
        draws: How many.
    """

    mean: float
    low: float
    high: float
    draws: int


LabelCurve = dict[str, dict[int, LabelPoint]]
"""Kind of features to episodes a task to score."""


def label_curves(
    inputs: ProbeInputs, random: Sequence[ProbeInputs], tasks: Mapping[int, str], *, seed: int = 0
) -> LabelCurve:
    """Measure all kinds of features with `COUNTS` labelled episodes a task.

    Args:
        inputs: Features and summed actions of one source's pairs.
        random: The same of random quantizers.
        tasks: Task of each episode in ``inputs.episodes``.
        seed: Of the draws.

    Returns:
        Only counts for which every task has an episode more than that.
    """
    kinds = {VECTORS: [inputs.vectors], CODES: [inputs.codes], RANDOM: [other.vectors for other in random]}
    kinds |= {CHANGES: [_components(inputs.changes)], FRAMES: [_components(inputs.frames)]}
    of_task: dict[str, list[int]] = {}
    for episode in inputs.episodes.unique().tolist():
        of_task.setdefault(tasks[episode], []).append(episode)
    # On the scale of all pairs: of the labelled episodes alone only actions are used.
    scaled = {name: [_standardised(x.double()) for x in group] for name, group in kinds.items() if group}
    curves: LabelCurve = {name: {} for name in scaled}
    for count in COUNTS:
        if count >= min(len(episodes) for episodes in of_task.values()):
            continue
        drawn = [_draw(of_task, count, [seed, count, number]) for number in range(_DRAWS)]
        for name in curves:
            scores = [_score(x, inputs, labelled) for labelled in drawn for x in scaled[name]]
            curves[name][count] = LabelPoint(fmean(scores), min(scores), max(scores), len(drawn))
    return curves


def _draw(of_task: Mapping[str, list[int]], count: int, seed: list[int]) -> Tensor:
    import numpy as np

    generator = np.random.default_rng(seed)
    return torch.tensor([e for task in sorted(of_task) for e in generator.choice(of_task[task], count, replace=False)])


def _components(pictures: Tensor) -> Tensor:
    """Principal components of ``[N, F]``; of no more than there is."""
    centred = pictures.double() - pictures.double().mean(0)
    width = min(_COMPONENTS, *centred.shape)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    return left[:, :width] * values[:width]


def _standardised(x: Tensor) -> Tensor:
    scale = x.std(0, correction=0)
    return torch.where(scale > _CONSTANT, (x - x.mean(0)) / scale.clamp_min(_CONSTANT), 0)


def _score(x: Tensor, inputs: ProbeInputs, labelled: Tensor) -> float:
    y = inputs.actions.double()
    fit = torch.isin(inputs.episodes, labelled)
    weights, intercepts = ridge_with_intercept(x[fit], y[fit])
    strengths, dimensions = _strengths(x[fit], y[fit], inputs.episodes[fit]), torch.arange(y.shape[1])
    predicted = x[~fit] @ weights[strengths, :, dimensions].T + intercepts[strengths, 0, dimensions]
    true = y[~fit]
    varies = true.std(0, correction=0) > _CONSTANT
    residual, total = ((predicted - true) ** 2).sum(0), ((true - true.mean(0)) ** 2).sum(0)
    r2 = (1 - residual / total.clamp_min(_CONSTANT)).clamp_min(_WORST)[varies]
    return float(r2.mean()) if len(r2) else float("nan")


def _strengths(x: Tensor, y: Tensor, episodes: Tensor) -> Tensor:
    """The strength that predicts left-out episodes best, for each dimension; of a single one, left-out blocks."""
    ids = episodes.unique()
    alone = len(ids) == 1
    fold = torch.arange(len(x)) * _FOLDS // len(x) if alone else torch.searchsorted(ids, episodes) % _FOLDS
    error = torch.zeros(len(STRENGTHS), y.shape[1], dtype=torch.float64)
    for held in fold.unique():
        inside = fold == held
        weights, intercepts = ridge_with_intercept(x[~inside], y[~inside])
        error += ((x[inside] @ weights + intercepts - y[inside]) ** 2).sum(1)
    return error.argmin(0)


def advantage(curves: LabelCurve, rival: str) -> tuple[int, float] | None:
    """How much more R2 continuous latents tell than a rival, with the episodes a task that the gate looks at.

    Returns:
        The count, two where it was measured, and the difference; None: nothing was measured.
    """
    shared = [count for count in (2, 1) if count in curves.get(VECTORS, {}) and count in curves.get(rival, {})]
    if not shared:
        return None
    return shared[0], curves[VECTORS][shared[0]].mean - curves[rival][shared[0]].mean


def to_json(curves: LabelCurve) -> dict[str, Any]:
    """Plain JSON values: counts as text."""
    return {name: {str(k): vars(point) for k, point in points.items()} for name, points in curves.items()}
