"""Pictures for the quality card: what is predicted, and what one pair's codes do to other frames."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from hlrp.laq.metrics import moving_pixels
from hlrp.laq.model import LAQ

LARGEST = 128
"""Pixels of a picture's longer side at most, to keep the page small."""

_EXAMPLES, _TRANSFERRED, _TARGETS = 6, 3, 4
_CANDIDATES = 512
_MOTION_QUANTILES = (0.75, 0.9, 0.5)


@dataclass(frozen=True, eq=False)
class Example:
    """One pair; pictures are uint8 ``[3, H, W]``.

    Args:
        episode: Its episode.
        index: Global index of its current frame.
        codes: Its codes.
        other: The codes of another pair.
        current: Frame t.
        following: Frame t + o.
        predicted: From frame t and the pair's codes.
        permuted: From frame t and the other pair's codes.
        true_change: What changes; mid-grey: nothing, brighter and darker as the pixels become.
        predicted_change: The same of the prediction, at the same scale.
        permuted_change: The same of the prediction from the other pair's codes.
    """

    episode: int
    index: int
    codes: list[int]
    other: list[int]
    current: Tensor
    following: Tensor
    predicted: Tensor
    permuted: Tensor
    true_change: Tensor
    predicted_change: Tensor
    permuted_change: Tensor


@dataclass(frozen=True, eq=False)
class TransferRow:
    """One pair's codes applied to other frames.

    Args:
        origin: The pair.
        predicted: Results, one per target.
        change: What they change, at the scale of the pair's own change.
    """

    origin: Example
    predicted: list[Tensor]
    change: list[Tensor]


@dataclass(frozen=True, eq=False)
class SourcePictures:
    """Pictures of one source.

    Args:
        examples: Pairs, from different episodes as far as there are.
        targets: Frames that codes are transferred to.
        rows: Transfers.
    """

    examples: list[Example]
    targets: list[Tensor]
    rows: list[TransferRow]


@torch.no_grad()
def draw_pictures(laq: LAQ, batches: Iterable[Mapping[str, Tensor]]) -> SourcePictures:
    """Choose pairs that move and draw what the quantizer makes of them.

    Args:
        laq: The model, on its device.
        batches: With ``frames [B, T, C, H, W]``, ``valid [B, T-1]``, ``episode_index [B]`` and ``index [B]``.
    """
    pairs, episodes, indices = _candidates(batches)
    chosen = _choose(pairs, episodes)
    frames = pairs[chosen]
    codes = laq.encode(frames)[:, 0].cpu()
    other = codes[[_other(codes, i) for i in range(len(codes))]]
    now, after = frames.float().unbind(1)
    now, after = now / 255, after / 255
    predicted, permuted = laq.decode(now, codes).cpu().float(), laq.decode(now, other).cpu().float()
    examples = []
    for i, at in enumerate(chosen.tolist()):
        scale = _scale(now[i], after[i])
        examples.append(
            Example(
                episode=int(episodes[at]),
                index=int(indices[at]),
                codes=codes[i].tolist(),
                other=other[i].tolist(),
                current=_picture(now[i]),
                following=_picture(after[i]),
                predicted=_picture(predicted[i]),
                permuted=_picture(permuted[i]),
                true_change=_change(now[i], after[i], scale),
                predicted_change=_change(now[i], predicted[i], scale),
                permuted_change=_change(now[i], permuted[i], scale),
            )
        )
    return _with_transfers(laq, examples, now, after, codes)


def _other(codes: Tensor, i: int) -> int:
    """The next pair whose codes differ from pair i's; equal ones would look as if the decoder ignored them."""
    count = len(codes)
    following = [(i + k) % count for k in range(1, count)]
    return next((j for j in following if not torch.equal(codes[i], codes[j])), (i + 1) % count)


def _with_transfers(laq: LAQ, examples: list[Example], now: Tensor, after: Tensor, codes: Tensor) -> SourcePictures:
    distinct = [i for i in range(len(codes)) if not any(torch.equal(codes[i], codes[j]) for j in range(i))]
    targets = list(range(len(codes)))[-_TARGETS:]
    rows = []
    for i in distinct[:_TRANSFERRED]:
        scale = _scale(now[i], after[i])
        results = laq.decode(now[targets], codes[i].expand(len(targets), -1)).cpu().float()
        rows.append(
            TransferRow(
                origin=examples[i],
                predicted=[_picture(r) for r in results],
                change=[_change(now[t], r, scale) for t, r in zip(targets, results, strict=True)],
            )
        )
    return SourcePictures(examples, [examples[t].current for t in targets], rows)


def _candidates(batches: Iterable[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """First pairs of some windows, uint8 ``[N, 2, C, H, W]``, with their episodes and indices, on the CPU."""
    frames, episodes, indices = [], [], []
    count = 0
    for batch in batches:
        frames.append(batch["frames"][:, :2].cpu())
        episodes.append(batch["episode_index"].cpu())
        indices.append(batch["index"].cpu())
        count += len(frames[-1])
        if count >= _CANDIDATES:
            break
    return torch.cat(frames), torch.cat(episodes), torch.cat(indices)


def _choose(pairs: Tensor, episodes: Tensor) -> Tensor:
    """Pairs of well visible motion, from as many episodes as there are."""
    motion = torch.stack([moving_pixels(*(p.float() / 255)).float().mean() for p in pairs])
    ids = episodes.unique()
    count = min(_EXAMPLES, len(pairs))
    chosen: list[int] = []
    for slot in range(count):
        episode = ids[slot * len(ids) // count] if len(ids) >= count else ids[slot % len(ids)]
        quantile = _MOTION_QUANTILES[slot // len(ids) % len(_MOTION_QUANTILES)]
        mine = torch.nonzero(episodes == episode).flatten()
        free = [int(i) for i in mine[motion[mine].argsort()] if int(i) not in chosen]
        if free:
            chosen.append(free[min(len(free) - 1, int(quantile * len(free)))])
    return torch.tensor(chosen)


def _scale(now: Tensor, after: Tensor) -> float:
    """What makes the pair's own change well visible; strong outliers are cut off."""
    difference = (after - now).mean(0).abs().flatten()
    return 1 / max(float(difference.quantile(0.995)), 0.05)


def _change(now: Tensor, after: Tensor, scale: float) -> Tensor:
    """The mean change of the channels around mid-grey, uint8 ``[3, H, W]``."""
    return _picture((0.5 + 0.5 * (after - now).mean(0, keepdim=True) * scale).expand(3, -1, -1))


def _picture(pixels: Tensor) -> Tensor:
    """``[C, H, W]`` in [0, 1] to uint8 ``[3, H, W]``, made smaller if it is large."""
    if pixels.shape[0] != 3:
        pixels = pixels[:1].expand(3, -1, -1)
    longer = max(pixels.shape[1:])
    if longer > LARGEST:
        size = [max(1, round(s * LARGEST / longer)) for s in pixels.shape[1:]]
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
