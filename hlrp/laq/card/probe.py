"""Linear probes: how much of the true actions a ridge regression reads off some features, on episodes it never saw."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from hlrp.laq.model import LAQ
from hlrp.laq.ridge import STRENGTHS, ridge_weights

SCALES = (0.0, 0.1, 1.0)
"""Factors that are tried on either of two groups of features, the other at 1: in effect, each group's own strength."""

THUMBNAIL = 12
"""Side of the thumbnail that stands for frame features in the probe."""

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
        strength: Ridge strength chosen for each dimension in each fold, ``[fold][dimension]``.
    """

    r2: float
    r2_per_dim: list[float | None]
    samples: int
    episodes: int
    strength: list[list[float]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ProbeInputs:
    """Features and targets of the valid pairs of some windows, N in all, on the CPU.

    Args:
        codes: One-hot codes, ``[N, S * K]``.
        vectors: Differences before quantisation, ``[N, S * D]``.
        quantized: Code vectors, ``[N, S * D]``.
        frames: Thumbnails of the current frames, ``[N, C * THUMBNAIL**2]``.
        actions: Summed true actions, ``[N, A]``.
        episodes: Episode of each pair, ``[N]``, numbered over all sources.
    """

    codes: Tensor
    vectors: Tensor
    quantized: Tensor
    frames: Tensor
    actions: Tensor
    episodes: Tensor


@torch.no_grad()
def probe_inputs(laq: LAQ, batches: Iterable[Mapping[str, Tensor]]) -> ProbeInputs:
    """Encode windows for `probe_all`.

    Args:
        laq: The model, on its device.
        batches: With ``frames [B, T, C, H, W]``, ``valid [B, T-1]``, ``action_sum [B, T-1, A]``, ``episode_index [B]``;
            optional ``source [B]`` and ``has_action [B]`` (pairs without a true action are left out, and those whose
            action is no finite number).
    """
    parts: list[tuple[Tensor, ...]] = []
    size = laq.config.codebook_size
    for batch in batches:
        valid = batch["valid"].cpu()
        if "has_action" in batch:
            valid = valid & batch["has_action"].cpu().view(-1, 1)
        valid = valid & batch["action_sum"].cpu().isfinite().all(-1)
        vectors = laq.encode_vectors(batch["frames"])
        codes = laq.codes_of(vectors)
        frames = batch["frames"][:, :-1].cpu()[valid].float() / (255 if batch["frames"].dtype == torch.uint8 else 1)
        source = batch["source"].cpu() if "source" in batch else torch.zeros(len(valid), dtype=torch.int64)
        episode = batch["episode_index"].cpu() + source * 2**40
        parts.append(
            (
                F.one_hot(codes.cpu()[valid], size).flatten(1).float(),
                vectors.float().cpu()[valid].flatten(1),
                laq.quantizer.lookup(codes).float().cpu()[valid].flatten(1),
                F.adaptive_avg_pool2d(frames, THUMBNAIL).flatten(1),
                batch["action_sum"].float().cpu()[valid],
                episode[:, None].expand_as(valid)[valid],
            )
        )
    return ProbeInputs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def probe_all(inputs: ProbeInputs) -> dict[str, ProbeResult]:
    """Probes of the summed actions from codes, quantised and continuous vectors, the frame alone, and frame with codes.

    ``frames_codes.r2 - frames.r2`` is what the codes add: a scripted expert's action can be guessed from the frame.
    """
    features = {
        "codes": inputs.codes,
        "quantized": inputs.quantized,
        "vectors": inputs.vectors,
        "frames": inputs.frames,
    }
    found = {name: probe(x, inputs.actions, inputs.episodes) for name, x in features.items()}
    found["frames_codes"] = probe(inputs.frames, inputs.actions, inputs.episodes, beside=inputs.codes)
    return found


def probe(
    features: Tensor, targets: Tensor, episodes: Tensor, *, beside: Tensor | None = None, folds: int = _FOLDS
) -> ProbeResult:
    """Score a ridge regression by cross-validation over episodes.

    Every episode is predicted by a regression fitted on the other folds' episodes. The strength, and the scale of two
    groups of features to each other (banded ridge regression, Nunez-Elizalde et al. 2019), are chosen for each target
    dimension by cross-validation inside the fitting episodes: a large group cannot drown a small one. The split
    depends on the episodes' order only.

    Args:
        features: ``[N, F]``.
        targets: ``[N, A]``, summed true actions.
        episodes: ``[N]`` int64; samples of one episode never lie on both sides of a split.
        beside: A second group of features, ``[N, G]``, regularised apart from the first.
        folds: Parts of the episodes; lowered to the number of episodes.

    Raises:
        ValueError: Fewer than three episodes: nothing can be held out twice.
    """
    ids = episodes.unique()
    folds = min(folds, len(ids))
    if folds < 3:
        raise ValueError(f"a probe needs samples of at least 3 episodes, got {len(ids)}")
    groups = [g.double().cpu() for g in (features, beside) if g is not None]
    y = targets.double().cpu()
    fold = (torch.searchsorted(ids, episodes) % folds).cpu()
    predicted, baseline = torch.empty_like(y), torch.empty_like(y)
    strengths = []
    for held in range(folds):
        test = fold == held
        fit = [g[~test] for g in groups]
        chosen = _errors(fit, y[~test], fold[~test]).argmin(0)
        predictions = _predictions(fit, y[~test], [g[test] for g in groups])
        predicted[test] = torch.stack([predictions[c, :, d] for d, c in enumerate(chosen)], dim=1)
        baseline[test] = y[~test].mean(0)
        strengths.append([STRENGTHS[int(c) % len(STRENGTHS)] for c in chosen])
    residual, total = ((predicted - y) ** 2).sum(0), ((baseline - y) ** 2).sum(0)
    varies = y.std(0, correction=0) > _CONSTANT
    r2 = 1 - residual / total.clamp_min(_CONSTANT)
    per_dim = [float(score) if use else None for score, use in zip(r2, varies, strict=True)]
    mean = float(r2[varies].mean()) if bool(varies.any()) else float("nan")
    return ProbeResult(mean, per_dim, len(y), len(ids), strengths)


def _errors(groups: list[Tensor], y: Tensor, fold: Tensor) -> Tensor:
    """Squared error ``[C, A]`` of every candidate for every dimension, each fold predicted from the others."""
    total = torch.zeros(1, y.shape[1], dtype=torch.float64)
    for held in fold.unique():
        inner = fold == held
        predictions = _predictions([g[~inner] for g in groups], y[~inner], [g[inner] for g in groups])
        total = total + ((predictions - y[inner]) ** 2).sum(1)
    return total


def _predictions(groups: list[Tensor], y: Tensor, test_groups: list[Tensor]) -> Tensor:
    """Predictions ``[C, N, A]`` of every candidate, a scale of the groups (slowest) with a strength (fastest)."""
    pairs = [_standardised(fit, test) for fit, test in zip(groups, test_groups, strict=True)]
    if len(pairs) == 1:
        return torch.stack(_ridge(*pairs[0], y))
    (first, first_test), (second, second_test) = pairs
    found = []
    for a, b in [*((scale, 1.0) for scale in SCALES), *((1.0, scale) for scale in SCALES[:-1])]:
        fit, test = torch.cat([a * first, b * second], dim=1), torch.cat([a * first_test, b * second_test], dim=1)
        found += _ridge(fit, test, y)
    return torch.stack(found)


def _standardised(fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, scale = fit.mean(0), fit.std(0, correction=0)
    # A feature that is constant where the regression is fitted says nothing and must not explode elsewhere.
    scale = torch.where(scale > _CONSTANT, scale, torch.inf)
    return (fit - mean) / scale, (test - mean) / scale


def _ridge(fit: Tensor, test: Tensor, y: Tensor) -> list[Tensor]:
    """Predictions ``[N, A]`` for ``test`` at each of `STRENGTHS`; both sides standardised by the fitting samples."""
    target_mean = y.mean(0)
    return [test @ weights + target_mean for weights in ridge_weights(fit, y - target_mean)]
