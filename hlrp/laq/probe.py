"""Linear probes: how much of the true actions a ridge regression reads off some features, on episodes it never saw."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

STRENGTHS = tuple(10.0**e for e in range(-4, 5))
"""Ridge strengths that are tried, per sample and in units of a standardised feature's variance."""

_FOLDS = 5
_CONSTANT = 1e-6


@dataclass(frozen=True)
class ProbeResult:
    """A probe's score.

    Args:
        r2: Mean over the action dimensions that vary; 1 is perfect, 0 the mean's own score; can be negative.
        r2_per_dim: Each dimension's; None for one that does not vary.
        samples: Pairs scored.
        episodes: Episodes they come from.
        strength: Ridge strength chosen in each fold.
    """

    r2: float
    r2_per_dim: list[float | None]
    samples: int
    episodes: int
    strength: list[float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def probe(features: Tensor, targets: Tensor, episodes: Tensor, *, folds: int = _FOLDS) -> ProbeResult:
    """Score a ridge regression by cross-validation over episodes.

    Every episode is predicted by a regression fitted on the other folds' episodes; the strength is chosen by
    cross-validation inside the fitting episodes. The split depends on the episodes' order only.

    Args:
        features: ``[N, F]``.
        targets: ``[N, A]``, summed true actions.
        episodes: ``[N]`` int64; samples of one episode never lie on both sides of a split.
        folds: Parts of the episodes; lowered to the number of episodes.

    Raises:
        ValueError: Fewer than three episodes: nothing can be held out twice.
    """
    ids = episodes.unique()
    folds = min(folds, len(ids))
    if folds < 3:
        raise ValueError(f"a probe needs samples of at least 3 episodes, got {len(ids)}")
    x, y = features.double().cpu(), targets.double().cpu()
    fold = (torch.searchsorted(ids, episodes) % folds).cpu()
    predicted = torch.empty_like(y)
    baseline = torch.empty_like(y)
    strengths = []
    for held in range(folds):
        test = fold == held
        strengths.append(_choose(x[~test], y[~test], fold[~test]))
        predicted[test] = _ridge(x[~test], y[~test], x[test], (strengths[-1],))[0]
        baseline[test] = y[~test].mean(0)
    residual, total = ((predicted - y) ** 2).sum(0), ((baseline - y) ** 2).sum(0)
    varies = y.std(0, correction=0) > _CONSTANT
    r2 = 1 - residual / total.clamp_min(_CONSTANT)
    per_dim = [float(score) if use else None for score, use in zip(r2, varies, strict=True)]
    mean = float(r2[varies].mean()) if bool(varies.any()) else float("nan")
    return ProbeResult(mean, per_dim, len(y), len(ids), strengths)


def _choose(x: Tensor, y: Tensor, fold: Tensor) -> float:
    """The strength of least error over the folds, each predicted from the others."""
    scale = y.std(0, correction=0).clamp_min(_CONSTANT)
    errors = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    for held in fold.unique():
        inner = fold == held
        predictions = _ridge(x[~inner], y[~inner], x[inner], STRENGTHS)
        errors += torch.stack([(((p - y[inner]) / scale) ** 2).sum() for p in predictions])
    return STRENGTHS[int(errors.argmin())]


def _ridge(x: Tensor, y: Tensor, x_test: Tensor, strengths: tuple[float, ...]) -> list[Tensor]:
    """Predictions for ``x_test`` at each strength; features standardised by the fitting samples."""
    mean, scale, target_mean = x.mean(0), x.std(0, correction=0), y.mean(0)
    # A feature that is constant where the regression is fitted says nothing and must not explode elsewhere.
    scale = torch.where(scale > _CONSTANT, scale, torch.inf)
    fit, test = (x - mean) / scale, (x_test - mean) / scale
    values, axes = torch.linalg.eigh(fit.T @ fit / len(fit))
    rotated = axes.T @ (fit.T @ (y - target_mean) / len(fit))
    turned = test @ axes
    return [turned @ (rotated / (values.clamp_min(0) + s)[:, None]) + target_mean for s in strengths]
