"""Losses over what is supervised: entries of a chunk that lie in the episode, of samples whose actions are labelled."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hlrp.policies.figures import Figures


@dataclass(frozen=True)
class Term:
    """One loss, before it is reduced.

    Args:
        losses: ``[B, ...]``.
        mask: bool, as losses or with fewer axes at the end: where they count.
        weight: Weight of the term's mean.
        metrics: Further numbers to log, scalars.
    """

    losses: Tensor
    mask: Tensor
    weight: float = 1.0
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def _masked(self) -> tuple[Tensor, Tensor]:
        mask = self.mask.reshape(*self.mask.shape, *[1] * (self.losses.ndim - self.mask.ndim)).expand_as(self.losses)
        # Not a product: what lies outside the mask may be NaN.
        return torch.where(mask, self.losses, torch.zeros_like(self.losses)).reshape(len(mask), -1), mask.reshape(
            len(mask), -1
        )

    def mean(self) -> Tensor:
        """Mean over what is supervised on all processes; a zero that is connected to the parameters if nothing is."""
        losses, mask = self._masked()
        count = mask.sum().to(losses.dtype)
        if torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized():
            # Gradients are averaged over processes afterwards, however much each has to learn from.
            torch.distributed.all_reduce(count)
            count = count / torch.distributed.get_world_size()
            return losses.sum() / count.clamp(min=1 / torch.distributed.get_world_size())
        return losses.sum() / count.clamp(min=1)

    def per_sample(self) -> Tensor:
        """Mean over each sample's supervised entries ``[B]``; zero where it has none."""
        losses, mask = self._masked()
        return losses.sum(1) / mask.sum(1).clamp(min=1)


def reduce_terms(terms: dict[str, Term], reduction: str) -> tuple[Tensor, Figures]:
    """The weighted sum of terms, and numbers to log.

    Args:
        terms: Name to term.
        reduction: `mean`: a scalar; `none`: one per sample, ``[B]``.

    Raises:
        ValueError: Another reduction.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}; choose 'mean' or 'none'")
    values = {name: term.mean() if reduction == "mean" else term.per_sample() for name, term in terms.items()}
    loss = torch.stack([values[name] * term.weight for name, term in terms.items()]).sum(0)
    logged = {f"{name}_loss": value.detach().mean() for name, value in values.items()}
    for name, term in terms.items():
        covered = term.mask.reshape(len(term.mask), -1).any(1).float().mean()
        logged |= {f"{name}_labelled": covered, **{f"{name}_{k}": v.detach() for k, v in term.metrics.items()}}
    logged["loss"] = loss.detach().mean()
    return loss, Figures(logged)
