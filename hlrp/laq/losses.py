"""Losses of a quantizer's training: means over the valid pairs of all processes."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from hlrp.laq.metrics import is_distributed, moving_pixels, summed


def share_over_processes(value: Tensor) -> Tensor:
    """The mean of ``value`` over processes: dividing by it makes averaged gradients those of one large batch."""
    return summed(value.detach()) / torch.distributed.get_world_size() if is_distributed() else value


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values [B, T-1]`` where ``valid [B, T-1]``; zero, still connected, where nothing is valid."""
    kept = torch.where(valid, values, values.new_zeros(()))
    return kept.sum() / share_over_processes(valid.sum().to(values)).clamp_min(1)


def pixel_loss(recon: Tensor, frames: Tensor, valid: Tensor, background_weight: float) -> Tensor:
    """Squared error of the predicted frames, moving pixels counting 1 and all others ``background_weight``.

    Args:
        recon: ``[B, T-1, C, H, W]``.
        frames: ``[B, T, C, H, W]`` floating point in [0, 1].
        valid: ``[B, T-1]`` bool; the rest has neither weight nor gradient.
        background_weight: In [0, 1]; 1 is the plain mean.
    """
    current, following = frames[:, :-1], frames[:, 1:]
    weight = background_weight + (1 - background_weight) * moving_pixels(current, following).to(recon)
    weight = weight * valid[..., None, None, None]
    kept = torch.where(valid[..., None, None, None], recon - following, recon.new_zeros(()))
    # One ratio over the batch, not one per pair: a pair with three moving pixels must not weigh as much as one with
    # three hundred.
    return (weight * kept**2).mean(2).sum() / share_over_processes(weight.sum()).clamp_min(1e-6)


def feature_loss(predicted: Tensor, target: Tensor, frames: Tensor, valid: Tensor, background_weight: float) -> Tensor:
    """Squared error of predicted features, patches in which a pixel moves counting 1, others ``background_weight``.

    Args:
        predicted: ``[B, T-1, N, width]``.
        target: As predicted.
        frames: ``[B, T, C, H, W]`` floating point in [0, 1]; N patches tile them in rows.
        valid: ``[B, T-1]`` bool; the rest has neither weight nor gradient.
        background_weight: In [0, 1].
    """
    moving = moving_pixels(frames[:, :-1], frames[:, 1:]).float().flatten(0, 1)
    side = (moving.shape[-2] * moving.shape[-1] // predicted.shape[2]) ** 0.5
    patches = F.max_pool2d(moving, round(side)).flatten(1).unflatten(0, valid.shape)
    weight = (background_weight + (1 - background_weight) * patches) * valid[..., None]
    kept = torch.where(valid[..., None, None], predicted - target, predicted.new_zeros(()))
    return (weight * (kept.float() ** 2).mean(-1)).sum() / share_over_processes(weight.sum()).clamp_min(1e-6)
