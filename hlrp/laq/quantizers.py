"""Turning differences into codes: NSVQ, FSQ and VQ behind one interface.

Vectors are ``[B, S, D]``, codes ``[B, S]`` int64 in ``[0, K)``. One codebook serves all S positions. ``forward`` never
changes a codebook: initialising it and replacing unused codes are calls of their own, made by the training loop.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hlrp.errors import UserError

_REVIVAL_NOISE = 0.1  # share of the vectors' spread

# The pixel loss is about 0.01: the usual 0.25 would pull all vectors onto one code before they say anything.
_COMMITMENT = 0.005


class Quantized(NamedTuple):
    """A quantizer's result.

    Args:
        vectors: What the decoder is given, ``[B, S, D]``; gradients reach the input through it.
        codes: ``[B, S]`` int64 in ``[0, K)``.
        loss: Extra loss of each pair, ``[B]``; zeros where the rule has none.
    """

    vectors: Tensor
    codes: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """Base of the quantizers.

    Args:
        dim: Width D of the vectors.
        size: Codes K.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.dim, self.size = dim, size

    @abstractmethod
    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise ``[B, S, D]``; training and evaluation mode may differ."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors of codes: ``[B, S] -> [B, S, D]``."""

    def initialise(self, vectors: Tensor) -> None:
        """Place the codebook among ``vectors [N, D]``; nothing to do for a fixed one."""

    def replace(self, counts: Tensor, threshold: float, vectors: Tensor) -> Tensor:
        """Move codes that are hardly used to where vectors are.

        Args:
            counts: Uses of each code since the last call, ``[K]``.
            threshold: A code used less than this share of an even use (``counts.sum() / K``) is moved.
            vectors: Recent vectors ``[N, D]``.

        Returns:
            Which codes were moved, ``[K]`` bool.
        """
        return torch.zeros(self.size, dtype=torch.bool, device=counts.device)  # a fixed grid has nothing to move


def _nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest code: ``[B, S, D], [K, D] -> [B, S]``. In float32: bfloat16 distances tie."""
    flat = vectors.detach().flatten(0, -2).float()
    distances = (codebook.detach().float() ** 2).sum(-1) - 2 * flat @ codebook.detach().float().T
    return distances.argmin(dim=-1).view(vectors.shape[:-1])


class _Codebook(Quantizer):
    """A quantizer whose codes are learned vectors in the space of its input."""

    @property
    @abstractmethod
    def codebook(self) -> Tensor:
        """The codes ``[K, D]``, changed in place by `initialise` and `replace`."""

    def lookup(self, codes: Tensor) -> Tensor:
        """Rows of the codebook."""
        return self.codebook[codes]

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        """Draw all codes from ``vectors [N, D]``."""
        self.codebook.copy_(self._drawn(self.size, vectors))

    @torch.no_grad()
    def replace(self, counts: Tensor, threshold: float, vectors: Tensor) -> Tensor:
        """Draw the codes that are hardly used from ``vectors [N, D]``, which favours where the vectors are dense."""
        unused = counts < threshold * counts.sum() / self.size
        moved = int(unused.sum())
        if moved and len(vectors):
            self.codebook[unused] = self._drawn(moved, vectors)
        return unused

    def _drawn(self, count: int, vectors: Tensor) -> Tensor:
        # Resting scenes give equal vectors, and few vectors are drawn more than once: the noise tells copies apart,
        # which would otherwise tie with their original and stay dead.
        order = torch.randperm(len(vectors), device=vectors.device).repeat(-(-count // len(vectors)))
        chosen = vectors[order[:count]].to(self.codebook)
        spread = vectors.float().std(dim=0, correction=0).to(chosen)
        return chosen + _REVIVAL_NOISE * spread * torch.randn_like(chosen)


class NSVQ(_Codebook):
    """Noise substitution: in training the code's error is replaced by noise of the same length (LAPA's quantizer).

    ``q = d + ||d - c|| / ||r|| * r`` with ``r ~ N(0, I)``, so that ``d`` has a true gradient and ``c`` learns through
    the length of the error; in evaluation ``q = c``. No further loss.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__(dim, size)
        self.codes = nn.Parameter(torch.randn(size, dim))

    @property
    def codebook(self) -> Tensor:
        """The codes, ``[K, D]``."""
        return self.codes

    def forward(self, vectors: Tensor) -> Quantized:
        """Noise in place of the error in training, the nearest code in evaluation."""
        codes = _nearest(vectors, self.codes)
        chosen = self.codes[codes]
        loss = vectors.new_zeros(len(vectors))
        if not self.training:
            return Quantized(chosen, codes, loss)
        noise = torch.randn_like(vectors)
        tiny = torch.finfo(torch.float32).tiny
        # The square of a zero error has no finite root gradient: the smallest normal number under the root gives one.
        error = ((vectors - chosen) ** 2).sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
        length = noise.norm(dim=-1, keepdim=True).clamp_min(tiny)
        return Quantized(vectors + error / length * noise, codes, loss)


class VQ(_Codebook):
    """Nearest code with gradients turned by the rotation trick (vector-quantize-pytorch) and the two usual losses."""

    def __init__(self, dim: int, size: int, *, commitment: float = _COMMITMENT) -> None:
        from vector_quantize_pytorch import VectorQuantize  # type: ignore[import-untyped]

        super().__init__(dim, size)
        self.commitment = commitment
        # A learned codebook rather than a moving average: the average changes in forward and would need its own
        # synchronisation between processes.
        self.quantize = VectorQuantize(
            dim=dim,
            codebook_size=size,
            learnable_codebook=True,
            ema_update=False,
            commitment_weight=0.0,
            threshold_ema_dead_code=0,
            sync_codebook=False,
        )

    @property
    def codebook(self) -> Tensor:
        """The codes, ``[K, D]``."""
        return self.quantize.codebook

    def forward(self, vectors: Tensor) -> Quantized:
        """The nearest code; the losses pull codes and vectors together."""
        quantized, codes, _ = self.quantize(vectors.float())
        chosen = self.codebook[codes]
        pull_codes = ((chosen - vectors.detach()) ** 2).mean((1, 2))
        pull_vectors = ((chosen.detach() - vectors) ** 2).mean((1, 2))
        return Quantized(quantized.to(vectors), codes, pull_codes + self.commitment * pull_vectors)


class FSQ(Quantizer):
    """Finite scalar quantization (vector-quantize-pytorch): a fixed grid in a few learned directions."""

    def __init__(self, dim: int, size: int) -> None:
        from vector_quantize_pytorch import FSQ as FiniteScalar  # noqa: N811 - the class here is named after the rule

        super().__init__(dim, size)
        levels = fsq_levels(size)
        self.quantize = FiniteScalar(levels=levels, dim=dim, preserve_symmetry=2 in levels)

    def forward(self, vectors: Tensor) -> Quantized:
        """Round in each direction; gradients pass straight through."""
        quantized, codes = self.quantize(vectors)
        return Quantized(quantized, codes.long(), vectors.new_zeros(len(vectors)))

    def lookup(self, codes: Tensor) -> Tensor:
        """Points of the grid, projected back."""
        # Flattened, since the library takes three or more axes for an image and moves the channels forward.
        return self.quantize.indices_to_codes(codes.flatten()).view(*codes.shape, self.dim)


def fsq_levels(size: int) -> list[int]:
    """Levels of each direction whose product is ``size``: few directions of 3 to 8 levels where ``size`` allows it."""
    best: list[int] | None = None
    for level in range(8, 2, -1):
        if size % level == 0:
            rest = [] if size == level else fsq_levels(size // level)
            candidate = sorted([level, *rest], reverse=True)
            good = all(3 <= part <= 8 for part in candidate)
            # Even levels waste no direction: [4, 4] rather than [8, 2].
            if good and (best is None or (len(candidate), max(candidate)) < (len(best), max(best))):
                best = candidate
    return best or [size]


QUANTIZERS: dict[str, type[Quantizer]] = {"nsvq": NSVQ, "fsq": FSQ, "vq": VQ}


def make_quantizer(name: str, dim: int, size: int) -> Quantizer:
    """Build the quantizer ``name`` of ``size`` codes for vectors of width ``dim``.

    Raises:
        UserError: vector-quantize-pytorch, which ``fsq`` and ``vq`` come from, is not installed.
    """
    try:
        return QUANTIZERS[name](dim, size)
    except ModuleNotFoundError as error:
        if error.name != "vector_quantize_pytorch":
            raise
        raise UserError(
            f"quantizer {name!r} needs the package vector-quantize-pytorch",
            where="model.quantizer",
            fix="pip install vector-quantize-pytorch, or use model.quantizer=nsvq",
        ) from error
