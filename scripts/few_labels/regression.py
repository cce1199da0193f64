"""Ridge regression whose strength is chosen by episodes that are left out."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STRENGTHS = tuple(10.0**e for e in range(-4, 3))
_MOST_FOLDS = 8


class Ridge(NamedTuple):
    """A fitted regression, and its score on episodes that were left out.

    Args:
        weight: ``[F, T]``.
        bias: ``[T]``.
        r2: Of every target, predicted without its episode, against the mean; ``[T]``.
    """

    weight: Floats
    bias: Floats
    r2: Floats

    def predict(self, features: Floats) -> Floats:
        """``[n, F]`` to ``[n, T]``."""
        predicted: Floats = features @ self.weight + self.bias
        return predicted


def fit_ridge(features: Floats, targets: Floats, episodes: NDArray[np.int64]) -> Ridge:
    """Fit on rows of some episodes; of a single one, blocks of it are left out.

    Args:
        features: ``[n, F]``.
        targets: ``[n, T]``.
        episodes: Episode of each row.
    """
    ids = np.unique(episodes)
    if len(ids) == 1:
        fold = np.arange(len(episodes)) * 5 // len(episodes)
    else:
        fold = np.searchsorted(ids, episodes) % _MOST_FOLDS
    predicted = np.empty((len(STRENGTHS), *targets.shape), np.float32)
    for held in np.unique(fold):
        out = fold == held
        for i, (weight, bias) in enumerate(_solutions(features[~out], targets[~out])):
            predicted[i, out] = features[out] @ weight + bias
    errors = ((predicted - targets) ** 2).mean(1)
    best = errors.argmin(0)
    weights, biases = zip(*_solutions(features, targets), strict=True)
    every = np.arange(targets.shape[1])
    variance = targets.var(0)
    r2 = 1 - errors[best, every] / np.where(variance > 1e-8, variance, np.nan)
    return Ridge(np.stack(weights)[best, :, every].T, np.stack(biases)[best, every], r2)


def _solutions(x: Floats, y: Floats) -> list[tuple[Floats, Floats]]:
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    values, axes = np.linalg.eigh(x.T @ x / len(x))
    rotated = axes.T @ (x.T @ y / len(x))
    found = []
    for strength in STRENGTHS:
        weight = axes @ (rotated / (values.clip(0) + strength)[:, None])
        found.append((weight, y_mean - x_mean @ weight))
    return found


def r2(predicted: Floats, targets: Floats) -> float:
    """Mean over the dimensions that vary of 1 minus the error's share of the variance."""
    variance = targets.var(0)
    kept = variance > 1e-8
    return float((1 - ((predicted - targets) ** 2).mean(0)[kept] / variance[kept]).mean())
