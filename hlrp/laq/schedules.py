"""Optimizer, learning rate schedule, and schedule of the replacement of unused codes."""

import math
from collections.abc import Collection
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from hlrp.devices import fuse

USAGE_WINDOW = 50
"""Steps over which the use of codes is counted for the log."""

LEARNING_RATES = {"tiny": 1e-3, "base": 1e-4, "hlrp": 1e-4}
"""The learning rate of each preset, where the run names none."""
_WARMUP_STEPS, _WARMUP_SHARE = 1000, 0.05
_FINAL_FACTOR = 0.01
_WEIGHT_DECAY = 0.01
# Up to a step: how often unused codes are replaced, and the share of an even use under which a code counts as unused.
_REPLACEMENTS = ((100, 10, 0.1), (1000, 50, 0.1), (5000, 500, 0.05), (50_000, 2000, 0.01))
_SETTLED = 0.8  # share of the run after which the codebook is left alone


def learning_rate_factor(step: int, total: int) -> float:
    """Share of the learning rate at ``step`` of ``total``: a linear warm-up, then a cosine down to a hundredth."""
    warmup = max(1, min(_WARMUP_STEPS, int(_WARMUP_SHARE * total)))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return _FINAL_FACTOR + (1 - _FINAL_FACTOR) * 0.5 * (1 + math.cos(math.pi * progress))


def adamw_with_cosine(
    module: LightningModule, kept: Collection[nn.Parameter], *, lr: float, betas: tuple[float, float], total: int
) -> dict[str, Any]:
    """AdamW with `learning_rate_factor`, as Lightning takes them; neither ``kept`` nor norms and biases decay.

    Args:
        module: What is trained.
        kept: Parameters that do not decay in spite of their shape.
        lr: Peak learning rate.
        betas: Of AdamW.
        total: Optimizer steps of the run.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and p not in kept]
    others = [p for p in trained if p.ndim <= 1 or p in kept]
    groups = [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas)
    fuse(optimizer)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def replacement_at(step: int, total: int) -> float | None:
    """Threshold with which unused codes are replaced after ``step`` of ``total`` optimizer steps; None: not then."""
    if step > _SETTLED * total:
        return None
    for until, every, threshold in _REPLACEMENTS:
        if step <= until:
            return threshold if step % every == 0 else None
    return None
