"""Metrics of a quantizer: the codes it uses, and PSNR of its predictions where something moves.

The training module's validation and the quality card measure with the same functions.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hlrp.laq.config import LAQConfig
from hlrp.laq.model import LAQ, LAQOutput, evaluating

MOVING_THRESHOLD = 0.1
"""A pixel moves if a channel of it changes by more than this, of [0, 1]: above the noise of video compression."""

USED_FLOOR = 0.25
"""Share of codes in use under which a codebook counts as collapsed."""

_INITIAL_VECTORS = 4096


def moving_pixels(current: Tensor, following: Tensor) -> Tensor:
    """Which pixels move: two ``[..., C, H, W]`` in [0, 1] give ``[..., 1, H, W]`` bool."""
    return ((following - current).abs() > MOVING_THRESHOLD).any(dim=-3, keepdim=True)


def code_counts(codes: Tensor, size: int, mask: Tensor | None = None) -> Tensor:
    """How often each code is used at each position.

    Args:
        codes: int64 ``[N, S]`` in ``[0, size)``.
        size: Codes K.
        mask: bool, ``[N, S]`` or ``[N, 1]``; the others are not counted and may be anything. None: all are counted.

    Returns:
        int64 ``[S, size]``.
    """
    # Neither boolean indexing nor bincount: on a GPU they would wait for the device. What is masked is counted in a
    # column of its own.
    column = codes if mask is None else torch.where(mask, codes, size)
    counts = torch.zeros(codes.shape[1], size + 1, dtype=torch.int64, device=codes.device)
    return counts.scatter_add_(1, column.T, torch.ones_like(column.T))[:, :-1]


def is_distributed() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def summed(value: Tensor) -> Tensor:
    """The sum over all processes; ``value`` itself is not changed."""
    if not is_distributed():
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total


def perplexity(counts: Tensor) -> Tensor:
    """``exp`` of the entropy of each row's use, in [1, K]: ``[..., K]`` gives ``[...]``; 0 for rows without any use."""
    total = counts.sum(-1, keepdim=True)
    share = counts / total.clamp_min(1)
    return torch.where(total[..., 0] > 0, torch.exp(-torch.xlogy(share, share).sum(-1)), 0.0)


def psnr(squared_error: float, count: float) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]; nan without any."""
    if count == 0:
        return float("nan")
    return float(-10 * torch.log10(torch.tensor(squared_error / count, dtype=torch.float64).clamp_min(1e-12)))


def shuffled(count: int, generator: torch.Generator) -> Tensor:
    """For every one of ``count`` pairs another one, ``[count]``; no pair is given itself unless it is alone."""
    order = torch.randperm(count, generator=generator)
    others = torch.empty_like(order)
    others[order] = order.roll(1)
    return others


def _numbers(mask: Tensor, device: torch.device) -> Tensor:
    """Where ``mask [N]``, on the CPU, holds: picking by a mask that is on a GPU would make the host wait for it."""
    return mask.nonzero()[:, 0].to(device, non_blocking=True)


@dataclass(frozen=True)
class LAQScores:
    """Scores of one source, or of all together.

    Args:
        pairs: Valid pairs seen.
        codes_used: Codes used at least once, per position.
        used_share: The same as a share of K.
        codebook_used: Codes used at least once at any position, as a share of K.
        perplexity: Per position, in [1, K].
        moving_share: Share of pixels that move.
        psnr: dB on moving pixels, predicted from the true codes.
        psnr_copy: dB on moving pixels of the current frame in place of a prediction.
        psnr_permuted: dB on moving pixels, predicted from the codes of another pair.
    """

    pairs: int
    codes_used: list[int]
    used_share: list[float]
    codebook_used: float
    perplexity: list[float]
    moving_share: float
    psnr: float
    psnr_copy: float
    psnr_permuted: float

    @property
    def psnr_gain(self) -> float:
        """Gain over copying the current frame, in dB."""
        return self.psnr - self.psnr_copy

    @property
    def permutation_gap(self) -> float:
        """Loss, in dB, when the codes are those of another pair; near 0: the decoder ignores the codes."""
        return self.psnr - self.psnr_permuted

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, gain and gap included."""
        return asdict(self) | {"psnr_gain": self.psnr_gain, "permutation_gap": self.permutation_gap}


class LAQMeter:
    """Collects scores over batches, on the device; one synchronisation in `compute`.

    Batches should mix episodes: the permuted codes come from other pairs of the same batch, and neighbours in a video
    have nearly the same codes.

    Args:
        config: The model's.
        sources: Sources, told apart by the batch's ``source``.
        seed: Of the permutations.
    """

    def __init__(self, config: LAQConfig, sources: int = 1, seed: int = 0) -> None:
        self._config, self._sources = config, sources
        self._generator = torch.Generator().manual_seed(seed)
        self._counts: Tensor | None = None
        self._errors: Tensor | None = None

    @torch.no_grad()
    def update(self, laq: LAQ, frames: Tensor, valid: Tensor, source: Tensor | None = None) -> LAQOutput:
        """Add a batch: ``frames [B, T, C, H, W]``, ``valid [B, T-1]`` bool, ``source [B]`` in [0, sources).

        How many pairs are valid is asked for on the host: where ``valid`` and ``source`` are on the CPU, nothing waits
        for a GPU. Returns the model's output in evaluation mode.
        """
        valid = valid.cpu()
        source = torch.zeros(len(frames), dtype=torch.int64) if source is None else source.cpu()
        with evaluating(laq):
            out = laq(frames)
            current, following, codes, recon = self._valid_pairs(out.recon, out.codes, frames, valid)
            if len(codes) == 0:
                return out
            others = shuffled(len(codes), self._generator).to(codes.device)
            permuted = laq.decoder(current, laq.quantizer.lookup(codes[others]))[0]
        moving = moving_pixels(current, following)
        squared = [((x.clamp(0, 1) - following) ** 2 * moving) for x in (recon, current, permuted)]
        each = torch.stack([s.double().sum((1, 2, 3)) for s in squared], dim=1)
        pixels = torch.stack([moving.sum((1, 2, 3)), torch.full_like(moving.sum((1, 2, 3)), moving[0].numel())], dim=1)
        self._add(source[:, None].expand_as(valid)[valid], codes, torch.cat([each, pixels.double()], dim=1))
        return out

    def compute(self, source: int | None = None) -> LAQScores:
        """Scores of one source, or of all; summed over processes where training is distributed."""
        counts, errors = self._totals()
        pick = slice(None) if source is None else slice(source, source + 1)
        used, error = counts[pick].sum(0), errors[pick].sum(0).tolist()
        channels = self._config.channels
        return LAQScores(
            pairs=int(used[0].sum()),
            codes_used=(used > 0).sum(-1).tolist(),
            used_share=((used > 0).double().mean(-1)).tolist(),
            codebook_used=float((used.sum(0) > 0).double().mean()),
            perplexity=perplexity(used.double()).tolist(),
            moving_share=error[3] / error[4] if error[4] else float("nan"),
            psnr=psnr(error[0], error[3] * channels),
            psnr_copy=psnr(error[1], error[3] * channels),
            psnr_permuted=psnr(error[2], error[3] * channels),
        )

    def _valid_pairs(
        self, recon: Tensor, codes: Tensor, frames: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pixels = frames.to(recon.dtype) / 255 if frames.dtype == torch.uint8 else frames
        pairs = _numbers(valid.flatten(), frames.device)
        found = (x.flatten(0, 1).index_select(0, pairs) for x in (pixels[:, :-1], pixels[:, 1:], codes, recon))
        current, following, codes, recon = found
        return current, following, codes, recon

    def _add(self, source: Tensor, codes: Tensor, errors: Tensor) -> None:
        config = self._config
        if self._counts is None or self._errors is None:
            shape = (self._sources, config.code_seq_len, config.codebook_size)
            self._counts = torch.zeros(shape, dtype=torch.int64, device=codes.device)
            self._errors = torch.zeros(self._sources, 5, dtype=torch.float64, device=codes.device)
        for index in range(self._sources):
            mine = _numbers(source == index, codes.device)
            self._counts[index] += code_counts(codes.index_select(0, mine), config.codebook_size)
            self._errors[index] += errors.index_select(0, mine).sum(0)

    def _totals(self) -> tuple[Tensor, Tensor]:
        config = self._config
        counts, errors = self._counts, self._errors
        if counts is None or errors is None:
            counts = torch.zeros(self._sources, config.code_seq_len, config.codebook_size, dtype=torch.int64)
            errors = torch.zeros(self._sources, 5, dtype=torch.float64)
        return summed(counts).cpu(), summed(errors).cpu()


@torch.no_grad()
def random_laq(
    config: LAQConfig,
    frames: Sequence[Tensor],
    *,
    seed: int = 0,
    device: str = "cpu",
    image_model: nn.Module | None = None,
) -> LAQ:
    """An untrained quantizer to compare with: random weights, but a codebook placed among its own differences.

    Without that placement all pairs share one code, and any model would beat it.

    Args:
        config: Of the model that is judged.
        frames: Batches of windows ``[B, T, C, H, W]`` to place the codebook with.
        seed: Of the weights; the random states of the CPU and of ``device`` are left as they were.
        device: Where to build it.
        image_model: Frozen image model of the one that is judged, where it has one: that is not random.
    """
    place = torch.device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        laq = LAQ(config).to(device).eval()
        if image_model is not None and laq.image_model is not None:
            laq.image_model.load_state_dict(image_model.state_dict())
        vectors = torch.cat([laq.encode_vectors(f).flatten(0, 1) for f in frames])[:_INITIAL_VECTORS]
        laq.quantizer.initialise(vectors)
    return laq
