"""Transfer of codes: whether a code, decoded on another frame, is encoded to the same code again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hlrp.laq.metrics import shuffled
from hlrp.laq.model import LAQ

_PAIRS = 512


@dataclass(frozen=True)
class Transfer:
    """Share of codes that come back, per position.

    Args:
        pairs: Pairs measured.
        agreement: From another pair's frame, changed by this pair's codes.
        own: The same on the pair's own frame: what can be hoped for.
        chance: What codes drawn by their frequency would reach.
    """

    pairs: int
    agreement: list[float]
    own: list[float]
    chance: list[float]


@torch.no_grad()
def measure_transfer(
    laq: LAQ, batches: Iterable[Mapping[str, Tensor]], counts: Tensor, *, seed: int
) -> Transfer | None:
    """Measure on the first pairs of the first windows.

    Args:
        laq: The model, on its device.
        batches: With ``frames [B, T, C, H, W]`` and ``valid [B, T-1]``, episodes mixed.
        counts: Uses of each code, ``[S, K]``.
        seed: Of the choice of other frames.

    Returns:
        None if there are fewer than two pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    own = torch.zeros(laq.config.code_seq_len, dtype=torch.int64)
    other, pairs = own.clone(), 0
    for batch in batches:
        frames = batch["frames"][batch["valid"][:, 0], :2]
        if len(frames) < 2:
            continue
        codes = laq.encode(frames)[:, 0]
        current = frames[:, 0].float() / 255 if frames.dtype == torch.uint8 else frames[:, 0]
        given = shuffled(len(codes), generator)
        own += _returned(laq, current, codes)
        other += _returned(laq, current, codes[given.to(codes.device)])
        pairs += len(codes)
        if pairs >= _PAIRS:
            break
    if pairs == 0:
        return None
    share = counts / counts.sum(-1, keepdim=True).clamp_min(1)
    return Transfer(pairs, (other / pairs).tolist(), (own / pairs).tolist(), (share**2).sum(-1).tolist())


def _returned(laq: LAQ, current: Tensor, codes: Tensor) -> Tensor:
    """How often ``codes [N, S]`` come back from ``current [N, C, H, W]``, ``[S]``."""
    again = laq.encode(torch.stack([current, laq.decode(current, codes).to(current.dtype)], dim=1))[:, 0]
    return (again == codes).sum(0).cpu()
