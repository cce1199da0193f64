"""Ridge regression by eigendecomposition: one decomposition gives the weights at every strength."""

from collections.abc import Sequence

import torch
from torch import Tensor

STRENGTHS = tuple(10.0**e for e in range(-4, 5))
"""Ridge strengths that are tried, per sample and in units of a standardised feature's variance."""


def ridge_weights(features: Tensor, targets: Tensor, strengths: Sequence[float] = STRENGTHS) -> Tensor:
    """Weights of ``features @ weights`` for ``targets`` at each strength.

    Args:
        features: ``[N, F]``, each of mean zero: no intercept is fitted.
        targets: ``[N, A]``, each of mean zero.
        strengths: Added to the eigenvalues of the features' covariance.

    Returns:
        ``[C, F, A]``, one for each strength.
    """
    count, width = features.shape
    if width <= count:
        values, axes = torch.linalg.eigh(features.T @ features / count)
        rotated, back = axes.T @ (features.T @ targets / count), axes
    else:
        # The same weights out of the smaller matrix: X' (X X' + s I)^-1 y.
        values, axes = torch.linalg.eigh(features @ features.T / count)
        rotated, back = axes.T @ targets / count, features.T @ axes
    values = values.clamp_min(0)
    return torch.stack([back @ (rotated / (values + s)[:, None]) for s in strengths])


def ridge_with_intercept(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[C, F, A]`` and intercepts ``[C, 1, A]`` at each of `STRENGTHS`; the intercept is not regularised.

    Args:
        features: ``[N, F]``.
        targets: ``[N, A]``.
    """
    features_mean, targets_mean = features.mean(0), targets.mean(0)
    weights = ridge_weights(features - features_mean, targets - targets_mean)
    return weights, (targets_mean - features_mean @ weights)[:, None]
