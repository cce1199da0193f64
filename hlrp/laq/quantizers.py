"""Vector quantizers NSVQ, FSQ and VQ behind one interface.

Vectors are ``[B, S, D]``, codes ``[B, S]`` int64 in ``[0, K)``. Learned codebooks are one per position: the positions'
vectors differ so much that they would only divide a common one among them. ``forward`` never changes a codebook:
initialising it and replacing unused codes are calls of their own, made by the training loop.
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
        positions: Positions S.
    """

    def __init__(self, dim: int, size: int, positions: int) -> None:
        super().__init__()
        self.dim = dim
        self.size = size
        self.positions = positions

    @abstractmethod
    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise ``[B, S, D]``; training and evaluation mode may differ."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors of codes: ``[..., S] -> [..., S, D]``."""

    def initialise(self, vectors: Tensor) -> None:
        """Place the codebooks among ``vectors [N, S, D]``; nothing to do for a fixed one."""

    def replace(self, counts: Tensor, threshold: float, vectors: Tensor) -> Tensor:
        """Move codes that are hardly used to where vectors are.

        Args:
            counts: Uses of each code since the last call, ``[S, K]``.
            threshold: A code used less than this share of an even use at its position is moved.
            vectors: Recent vectors ``[N, S, D]``.

        Returns:
            Which codes were moved, ``[S, K]`` bool.
        """
        return torch.zeros_like(counts, dtype=torch.bool)  # a fixed grid has nothing to move


def _nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest code: ``[B, S, D], [S, K, D] -> [B, S]``. In float32: bfloat16 distances tie."""
    with torch.autocast(vectors.device.type, enabled=False):
        codes = codebook.detach().float()
        distances = (codes**2).sum(-1) - 2 * torch.einsum("bsd,skd->bsk", vectors.detach().float(), codes)
    return distances.argmin(dim=-1)


class _Codebook(Quantizer):
    """A quantizer whose codes are learned vectors in the space of its input."""

    @property
    @abstractmethod
    def codebook(self) -> Tensor:
        """The codes ``[S, K, D]``, changed in place by `initialise` and `replace`."""

    def lookup(self, codes: Tensor) -> Tensor:
        """Rows of the codebooks."""
        return self.codebook[torch.arange(self.positions, device=codes.device), codes]

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        """Draw all codes from ``vectors [N, S, D]``."""
        for codes, seen in zip(self.codebook, vectors.unbind(1), strict=True):
            codes.copy_(self._drawn(self.size, seen))

    @torch.no_grad()
    def replace(self, counts: Tensor, threshold: float, vectors: Tensor) -> Tensor:
        """Draw the codes that are hardly used from ``vectors [N, S, D]``, which favours where the vectors are dense."""
        unused = counts < threshold * counts.sum(-1, keepdim=True) / self.size
        if len(vectors) == 0:
            return torch.zeros_like(unused)
        for codes, seen, move in zip(self.codebook, vectors.unbind(1), unused, strict=True):
            if moved := int(move.sum()):
                codes[move] = self._drawn(moved, seen)
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

    def __init__(self, dim: int, size: int, positions: int) -> None:
        super().__init__(dim, size, positions)
        self.codes = nn.Parameter(torch.randn(positions, size, dim))

    @property
    def codebook(self) -> Tensor:
        """The codes, ``[S, K, D]``."""
        return self.codes

    def forward(self, vectors: Tensor) -> Quantized:
        """Noise in place of the error in training, the nearest code in evaluation."""
        codes = _nearest(vectors, self.codes)
        chosen = self.lookup(codes)
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

    def __init__(self, dim: int, size: int, positions: int, *, commitment: float = _COMMITMENT) -> None:
        from vector_quantize_pytorch import VectorQuantize  # type: ignore[import-untyped]

        super().__init__(dim, size, positions)
        self.commitment = commitment
        # A learned codebook rather than a moving average: the average changes in forward and would need its own
        # synchronisation between processes.
        self.quantize = VectorQuantize(
            dim=dim * positions,
            codebook_dim=dim,
            codebook_size=size,
            heads=positions,
            separate_codebook_per_head=True,
            learnable_codebook=True,
            ema_update=False,
            commitment_weight=0.0,
            threshold_ema_dead_code=0,
            sync_codebook=False,
        )
        # Its k-means is off, but at every call it would ask the device whether it has run.
        self.quantize._codebook.init_embed_ = _nothing

    @property
    def codebook(self) -> Tensor:
        """The codes, ``[S, K, D]``."""
        return self.quantize.codebook

    def forward(self, vectors: Tensor) -> Quantized:
        """The nearest code; the losses pull codes and vectors together."""
        quantized, codes, _ = self.quantize(vectors.float().flatten(1)[:, None])
        quantized, codes = quantized.view_as(vectors), codes.reshape(vectors.shape[:2])
        chosen = self.lookup(codes)
        pull_codes = ((chosen - vectors.detach()) ** 2).mean((1, 2))
        pull_vectors = ((chosen.detach() - vectors) ** 2).mean((1, 2))
        return Quantized(quantized.to(vectors), codes, pull_codes + self.commitment * pull_vectors)


def _nothing(*_: object, **__: object) -> None:
    """In place of an initialisation that is not asked for."""


class FSQ(Quantizer):
    """Finite scalar quantization (vector-quantize-pytorch): a fixed grid in a few learned directions."""

    def __init__(self, dim: int, size: int, positions: int) -> None:
        from vector_quantize_pytorch import FSQ as FiniteScalar  # noqa: N811 - the class here is named after the rule

        super().__init__(dim, size, positions)
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


def make_quantizer(name: str, dim: int, size: int, positions: int) -> Quantizer:
    """Build the quantizer ``name`` of ``size`` codes at each of ``positions``, for vectors of width ``dim``.

    Raises:
        UserError: vector-quantize-pytorch, which ``fsq`` and ``vq`` come from, is not installed.
    """
    try:
        return QUANTIZERS[name](dim, size, positions)
    except ModuleNotFoundError as error:
        if error.name != "vector_quantize_pytorch":
            raise
        raise UserError(
            f"quantizer {name!r} needs the package vector-quantize-pytorch",
            where="model.quantizer",
            fix="pip install vector-quantize-pytorch, or use model.quantizer=nsvq",
        ) from error
