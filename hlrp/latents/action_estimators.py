"""Regressions from features to targets that few episodes suffice for, with predictions for the episodes held out.

Shapes: N rows, F features, C columns of targets, A dimensions (each of one column or of several).
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hlrp.devices import fuse
from hlrp.laq.ridge import STRENGTHS, ridge_with_intercept
from hlrp.latents.decoder_manifest import Estimator

if TYPE_CHECKING:
    from numpy.typing import NDArray


MEMBERS = 5
"""Perceptrons of an ensemble."""

USUAL_STRENGTH = 0.1
"""Ridge strength where no labelled episode can say which one predicts another of its task."""

_HIDDEN = 128
_EPOCHS = 400
_PATIENCE = 40
_LOOKED_AT = 20
"""Epochs after which a GPU is asked whether the fit has stopped: every time, the host would wait for it."""
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_MOST_FOLDS = 20
_BLOCKS = 20
_BLOCK_FOLDS = 10
_CONSTANT = 1e-6


class Fit(NamedTuple):
    """A fitted regression.

    Args:
        weights: Its arrays by name.
        held_out: Predictions ``[N, C]`` for each row by regressions that did not see the row's fold.
    """

    weights: "dict[str, NDArray[np.float32]]"
    held_out: "NDArray[np.float64]"


class Folds(NamedTuple):
    """How rows are left out to score a regression.

    Args:
        of_row: int64 ``[N]``: rows of one number are left out together.
        whole: bool ``[N]``: the whole episode is left out, and others of its task are not.
    """

    of_row: "NDArray[np.int64]"
    whole: "NDArray[np.bool_]"


def make_folds(episodes: "NDArray[np.int64]", tasks: Sequence[str]) -> Folds:
    """Leave out an episode at a time, and of an episode that is the only one of its task short blocks.

    Predicted from other tasks alone, the only episode of a task would score far too low: docs/actions.md.

    Args:
        episodes: Episode of each row, ``[N]``; those of one episode follow each other in time.
        tasks: Task of each episode of the dataset.
    """
    ids = np.unique(episodes).tolist()
    of_task = Counter(tasks[e] for e in ids)
    whole = [e for e in sorted(ids, key=lambda e: (tasks[e], e)) if of_task[tasks[e]] > 1]
    count = min(len(whole), _MOST_FOLDS) or _BLOCK_FOLDS
    folds = np.empty(len(episodes), np.int64)
    for episode in ids:
        rows = np.flatnonzero(episodes == episode)
        blocks = np.arange(len(rows)) * _BLOCKS // len(rows)
        folds[rows] = whole.index(episode) % count if episode in whole else blocks % count
    return Folds(folds, np.isin(episodes, whole))


def fit_ridge(
    features: "NDArray[np.float32]",
    targets: "NDArray[np.float64]",
    folds: Folds,
    dimensions: "Sequence[NDArray[np.int64]]",
) -> Fit:
    """Ridge regression whose strength is chosen for each dimension by leaving folds out.

    The strength that predicts a held-out fold is chosen by the errors of the other folds, so that a score is not of
    what it was chosen by. Only whole episodes tell: without any it is `USUAL_STRENGTH`.

    Args:
        features: ``[N, F]``.
        targets: ``[N, C]``.
        folds: Two different ones or more.
        dimensions: Columns of each dimension.
    """
    x, y, fold = torch.from_numpy(features).double(), torch.from_numpy(targets), torch.from_numpy(folds.of_row)
    candidates = np.empty((len(STRENGTHS), *targets.shape))
    errors = []
    ids = np.unique(folds.of_row)
    for held in ids.tolist():
        test = fold == held
        weights, bias = ridge_with_intercept(x[~test], y[~test])
        predicted = (x[test] @ weights + bias).numpy()
        rows = np.flatnonzero(folds.of_row == held)
        candidates[:, rows] = predicted
        squared = ((predicted - targets[rows]) ** 2 * folds.whole[rows, None]).sum(1)
        errors.append(np.stack([squared[:, columns].sum(1) for columns in dimensions], axis=1))
    total = np.sum(errors, axis=0)
    held_out = np.empty(targets.shape)
    for held, error in zip(ids.tolist(), errors, strict=True):
        rows = np.flatnonzero(folds.of_row == held)[:, None]
        for columns, best in zip(dimensions, _best(total - error), strict=True):
            held_out[rows, columns] = candidates[best, rows, columns]
    weights, bias = ridge_with_intercept(x, y)
    chosen = np.empty(targets.shape[1], np.int64)
    for columns, best in zip(dimensions, _best(total), strict=True):
        chosen[columns] = best
    every = np.arange(targets.shape[1])
    arrays = {"weight": weights.numpy()[chosen, :, every].T, "bias": bias.numpy()[chosen, 0, every]}
    return Fit({name: np.ascontiguousarray(value, np.float32) for name, value in arrays.items()}, held_out)


def _best(errors: "NDArray[np.float64]") -> list[int]:
    """The candidate of the least error ``[strengths, A]`` of each dimension; the usual one where nothing voted."""
    usual = STRENGTHS.index(USUAL_STRENGTH)
    return [int(error.argmin()) if error.max() > _CONSTANT else usual for error in errors.T]


def fit_ensemble(
    features: "NDArray[np.float32]",
    targets: "NDArray[np.float64]",
    folds: Folds,
    *,
    seed: int,
    device: str = "cpu",
) -> Fit:
    """Small perceptrons, each fitted without one fold, which it predicts, and stopped early by another one.

    So a held-out prediction is one perceptron's that saw the fold neither in fitting nor in stopping; what is kept is
    the mean of all.

    Args:
        features: ``[N, F]``.
        targets: ``[N, C]``.
        folds: Two different ones or more.
        seed: Of the first weights.
        device: Where to fit.
    """
    ids = np.unique(folds.of_row)
    parts = [ids[i::MEMBERS] for i in range(min(MEMBERS, len(ids)))]
    mean, scale = targets.mean(0), targets.std(0)
    scale = np.where(scale > _CONSTANT, scale, 1.0)
    x = torch.from_numpy(features).to(device)
    y = torch.from_numpy((targets - mean) / scale).float().to(device)
    arrays = {"target_mean": mean.astype(np.float32), "target_scale": scale.astype(np.float32)}
    held_out, counted = np.zeros(targets.shape), np.zeros((len(targets), 1))
    for member in range(MEMBERS):
        test = np.isin(folds.of_row, parts[member % len(parts)])
        stop = _stopping_rows(folds.of_row, ~test, parts[(member + 1) % len(parts)])
        model = _train(x, y, ~test & ~stop, stop, seed * MEMBERS + member)
        with torch.no_grad():
            held_out[test] += model(x[test]).double().cpu().numpy() * scale + mean
        counted[test] += 1
        for name, value in model.state_dict().items():
            arrays[f"member{member}.{name}"] = value.cpu().numpy()
    return Fit(arrays, held_out / counted)


def _stopping_rows(
    folds: "NDArray[np.int64]", left: "NDArray[np.bool_]", part: "NDArray[np.int64]"
) -> "NDArray[np.bool_]":
    """Rows to stop by: another part, or the last fifth of the rows left where that would leave none to fit on."""
    stop = left & np.isin(folds, part)
    if stop.any() and (left & ~stop).any():
        return stop
    rows = np.flatnonzero(left)
    stop = np.zeros(len(folds), bool)
    stop[rows[-max(1, len(rows) // 5) :]] = True
    return stop


def _perceptron(width: int, columns: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, columns)
    )


def _train(x: Tensor, y: Tensor, fit: "NDArray[np.bool_]", stop: "NDArray[np.bool_]", seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _perceptron(x.shape[1], y.shape[1])
    model = model.to(x.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    fuse(optimizer)
    # By number and not by mask: how many there are is known here, and a GPU would have to be asked.
    rows, held = (torch.from_numpy(np.flatnonzero(mask)).to(x.device) for mask in (fit, stop))
    fitted, wanted, seen, aim = x[rows], y[rows], x[held], y[held]
    best = nn.utils.parameters_to_vector(model.parameters())
    best_error, since = torch.full((), torch.inf, device=x.device), torch.zeros((), dtype=torch.int64, device=x.device)
    for epoch in range(_EPOCHS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(fitted), wanted).backward()
        optimizer.step()
        with torch.no_grad():
            error = nn.functional.mse_loss(model(seen), aim)
            # Decided on the device. A fit that has stopped stays as it is until that is looked at.
            better = (error < best_error) & (since < _PATIENCE)
            best = torch.where(better, nn.utils.parameters_to_vector(model.parameters()), best)
            best_error = torch.where(better, error, best_error)
            since = torch.where(better, 0, since + 1)
        if (x.device.type == "cpu" or (epoch + 1) % _LOOKED_AT == 0) and int(since) >= _PATIENCE:
            break
    nn.utils.vector_to_parameters(best, model.parameters())
    return model


def predict(
    estimator: Estimator, weights: "dict[str, NDArray[np.float32]]", features: "NDArray[np.float32]"
) -> "NDArray[np.float64]":
    """What a fitted regression says: ``[n, F]`` to ``[n, C]``."""
    if estimator == "ridge":
        return features.astype(np.float64) @ weights["weight"].astype(np.float64) + weights["bias"]
    model = _perceptron(features.shape[1], len(weights["target_mean"]))
    total = np.zeros((len(features), len(weights["target_mean"])))
    for member in range(MEMBERS):
        model.load_state_dict(
            {name: torch.from_numpy(weights[f"member{member}.{name}"]) for name in model.state_dict()}
        )
        with torch.no_grad():
            total += model(torch.from_numpy(features)).double().numpy()
    return total / MEMBERS * weights["target_scale"] + weights["target_mean"]


def expected_shapes(estimator: Estimator, width: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a fitted regression's arrays."""
    if estimator == "ridge":
        return {"weight": (width, columns), "bias": (columns,)}
    shapes: dict[str, tuple[int, ...]] = {"target_mean": (columns,), "target_scale": (columns,)}
    for name, value in _perceptron(width, columns).state_dict().items():
        shapes |= {f"member{member}.{name}": tuple(value.shape) for member in range(MEMBERS)}
    return shapes
