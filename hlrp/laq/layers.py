"""Transformer layers of the quantizer. Shapes: B batch, T frames, N patches or tokens, D width."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

_SHORT = 4
"""Tokens up to which attention on a GPU is written out."""
_TILE = 64
"""Entries of a row that a GPU's matrix products take at once."""


def sincos_positions(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines of scalar positions: ``[N] -> [N, dim]``; ``dim`` must be even."""
    steps = torch.arange(dim // 2, dtype=torch.float32, device=positions.device)
    frequencies = torch.exp(-math.log(10_000.0) * steps / (dim // 2))
    angles = positions.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_positions(height: int, width: int, dim: int) -> Tensor:
    """Positions of a grid's cells in row order: ``[height * width, dim]``; ``dim`` must be a multiple of 4."""
    rows = sincos_positions(torch.arange(height), dim // 2).repeat_interleave(width, dim=0)
    columns = sincos_positions(torch.arange(width), dim // 2).repeat(height, 1)
    return torch.cat([rows, columns], dim=-1)


class Attention(nn.Module):
    """Multi-head attention ``[B, N, D] x [B, M, D] -> [B, N, D]`` with normalised queries and keys."""

    def __init__(self, dim: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.query_norm = nn.LayerNorm(dim // heads, bias=False)
        self.key_norm = nn.LayerNorm(dim // heads, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from ``x`` to ``context``, or to ``x`` itself."""
        query = rearrange(self.query(x), "b n (h d) -> b h n d", h=self.heads)
        key_value = self.key_value(x if context is None else context)
        key, value = rearrange(key_value, "b n (two h d) -> two b h n d", two=2, h=self.heads)
        query, key = self.query_norm(query), self.key_norm(key)
        if x.is_cuda and max(query.shape[-2], key.shape[-2]) <= _SHORT:
            mixed = short_attention(query, key, value, causal=self.causal)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


def short_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """`scaled_dot_product_attention` written out, for very many very short sequences ``[B, H, N, D]``.

    A GPU's attention kernels give each sequence a whole tile of 64 rows or more.
    """
    scale = query.shape[-1] ** -0.5
    if causal and key.shape[-2] == 2:
        # The first token sees itself alone. Of the second one's two weights one is enough.
        (_, query), (one, two), (first, second) = (x.unbind(-2) for x in (query, key, value))
        weight = torch.sigmoid((query * (two - one)).sum(-1, keepdim=True) * scale)
        return torch.stack([first.to(weight.dtype), first + weight * (second - first)], dim=-2)
    scores = (query.unsqueeze(-2) * key.unsqueeze(-3)).sum(-1) * scale
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return (scores.softmax(-1).unsqueeze(-1) * value.unsqueeze(-3)).sum(-2)


class FeedForward(nn.Module):
    """Gated feed-forward (GEGLU) with as many weights as a plain one of four times the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = 8 * dim // 3
        self.up = nn.Linear(dim, 2 * self.hidden)
        self.down = nn.Linear(self.hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        if x.is_cuda:
            return self._in_whole_tiles(x)
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))

    def _in_whole_tiles(self, x: Tensor) -> Tensor:
        """The same by products whose rows are as long as a GPU's kernels like them, with zeros for what is missing."""
        more = -self.hidden % _TILE
        halves = zip(self.up.weight.chunk(2), self.up.bias.chunk(2), strict=True)
        value, gate = (F.linear(x, F.pad(weight, (0, 0, 0, more)), F.pad(bias, (0, more))) for weight, bias in halves)
        return F.linear(value * F.gelu(gate), F.pad(self.down.weight, (0, more)), self.down.bias)


class Block(nn.Module):
    """Self-attention, optional cross-attention to ``context``, feed-forward; normalised before each."""

    def __init__(self, dim: int, heads: int, *, causal: bool = False, cross: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, causal=causal)
        self.cross_norm = nn.LayerNorm(dim) if cross else None
        self.cross = Attention(dim, heads) if cross else None
        self.feed_norm = nn.LayerNorm(dim)
        self.feed = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, D]``; ``context [B, M, D]`` is needed with cross-attention."""
        x = x + self.attention(self.attention_norm(x))
        if self.cross is not None and self.cross_norm is not None:
            x = x + self.cross(self.cross_norm(x), context)
        return x + self.feed(self.feed_norm(x))


class PatchEmbedding(nn.Module):
    """Cuts frames ``[..., C, H, W]`` in [0, 1] into patches and embeds them: ``[..., N, D]``, positions added."""

    positions: Tensor

    def __init__(self, channels: int, patch_size: int, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        pixels = channels * patch_size**2
        # No normalisation per patch before it: a patch's brightness and contrast are what motion changes.
        self.embed = nn.Sequential(nn.Linear(pixels, dim), nn.LayerNorm(dim))
        self.register_buffer("positions", grid_positions(*grid, dim), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """``[..., C, H, W] -> [..., N, D]``."""
        p = self.patch_size
        patches = rearrange(frames, "... c (h p) (w q) -> ... (h w) (p q c)", p=p, q=p)
        return self.embed(patches * 2 - 1) + self.positions


class FeatureEmbedding(nn.Module):
    """Embeds an image model's standardised features of a grid: ``[..., N, width] -> [..., N, D]``, positions added."""

    positions: Tensor

    def __init__(self, width: int, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim))
        self.register_buffer("positions", grid_positions(*grid, dim), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., N, width] -> [..., N, D]``."""
        embedded: Tensor = self.embed(features) + self.positions
        return embedded
