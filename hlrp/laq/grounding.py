"""Actions of a few labelled episodes in a quantizer's training: a linear head that tells them from the latents.

The head's loss shapes the latents of all videos, so that they keep what moves the robot and not what else moves (CLAM,
Liang et al. 2025; LAOM, Nikulin et al. 2025). The head itself is thrown away: `hlrp fit-actions` fits the map anew.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hlrp.config import LaqModel, LightningRun
from hlrp.data.filtering import refuse_idle_of_unknown_actions
from hlrp.errors import UserError
from hlrp.laq.losses import masked_mean

if TYPE_CHECKING:
    from hlrp.data.data_module import FrameDataModule

_CONSTANT = 1e-6


def grounded(run: LightningRun) -> bool:
    """Whether a run trains a quantizer with actions of labelled episodes.

    Raises:
        UserError: Labelled episodes are named beside a mixture, whose sources name their own; or a filter would look
            at the actions of the others.
    """
    if not isinstance(run.model, LaqModel):
        return False
    if run.model.labelled_episodes is not None and run.data.sources:
        raise UserError(
            "model.labelled_episodes does not say which of data.sources it means",
            where="model.labelled_episodes",
            fix="give labelled_episodes to each source",
        )
    named = [source.labelled_episodes for source in run.data.sources] or [run.model.labelled_episodes]
    if all(episodes in (None, "none") for episodes in named):
        return False
    if any(episodes != "all" for episodes in named):
        refuse_idle_of_unknown_actions(run.data.filter)
    return True


def action_width(datamodule: "FrameDataModule") -> int:
    """Width A of the labelled sources' actions.

    Raises:
        UserError: They have several.
    """
    infos = [source.info for source in datamodule.train_sources if source.labelled_episodes]
    widths = {info.repo_id: int(info.features["action"]["shape"][0]) for info in infos}
    if len(set(widths.values())) > 1:
        raise UserError(
            f"labelled sources have actions of several widths: {widths}",
            where="data.sources",
            fix="give labelled_episodes to sources with one action space",
        )
    return next(iter(widths.values()))


class ActionHead(nn.Module):
    """Linear map from a pair's continuous latents to its summed actions, standardised.

    Args:
        latent_width: S * D.
        action_width: A.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, latent_width: int, action_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(latent_width, action_width)
        self.register_buffer("mean", torch.zeros(action_width))
        self.register_buffer("scale", torch.ones(action_width))

    def standardise_by(self, sums: Tensor) -> None:
        """Take mean and spread from summed actions ``[N, A]`` of labelled episodes; what does not vary counts 0."""
        self.mean.copy_(sums.mean(0))
        spread = sums.std(0, correction=0)
        self.scale.copy_(torch.where(spread > _CONSTANT, spread, torch.inf))

    def loss(self, vectors: Tensor, sums: Tensor, known: Tensor) -> Tensor:
        """Mean squared error where an action is known, zero and still connected where none is.

        Args:
            vectors: ``[B, T-1, S, D]``.
            sums: ``[B, T-1, A]``; NaN counts as unknown.
            known: bool ``[B, T-1]``.
        """
        known = known & sums.isfinite().all(-1)
        wanted = torch.where(known[..., None], (sums - self.mean) / self.scale, 0.0)
        error = ((self.project(vectors.float().flatten(2)) - wanted) ** 2).mean(-1)
        return masked_mean(error, known)
