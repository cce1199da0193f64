"""Losses over what is supervised: entries of a chunk that lie in the episode, of samples whose actions are labelled."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hlrp.policies.figures import Figures, TermSums


@dataclass(frozen=True)
class Term:
    """One loss, before it is reduced.

    Args:
        losses: ``[B, ...]``.
        mask: bool, as losses or with fewer axes at the end: where they count.
        weight: Weight of the term's mean.
        metrics: Further numbers to log, scalars.
        confidence: As losses, >= 0: how much each counts beside the others; None: all alike.
    """

    losses: Tensor
    mask: Tensor
    weight: float = 1.0
    metrics: dict[str, Tensor] = field(default_factory=dict)
    confidence: Tensor | None = None

    def _supervised(self) -> Tensor:
        """Which losses count, bool, as they are."""
        mask = self.mask.reshape(*self.mask.shape, *[1] * (self.losses.ndim - self.mask.ndim)).expand_as(self.losses)
        return mask if self.confidence is None else mask & (self.confidence > 0)

    def _weighted(self) -> tuple[Tensor, Tensor]:
        """Losses times how much they count, and how much they count: both ``[B, n]``."""
        counts = self._supervised()
        # Not a product: what does not count may be NaN.
        losses = torch.where(counts, self.losses, torch.zeros_like(self.losses)).reshape(len(counts), -1)
        if self.confidence is None:
            return losses, counts.reshape(len(counts), -1)
        weights = torch.where(counts, self.confidence, torch.zeros_like(self.confidence)).reshape(len(counts), -1)
        return losses * weights, weights

    def mean(self) -> Tensor:
        """Mean over what is supervised on all processes; a zero that is connected to the parameters if nothing is."""
        losses, weights = self._weighted()
        count = weights.sum().to(losses.dtype)
        if torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized():
            # Gradients are averaged over processes afterwards, however much each has to learn from.
            torch.distributed.all_reduce(count)
            count = count / torch.distributed.get_world_size()
        return losses.sum() / _above_zero(count)

    def sums(self) -> TermSums:
        """What of this process's samples goes into the mean over others as well."""
        losses, weights = self._weighted()
        return TermSums(losses.float().sum(), weights.float().sum(), self.weight)

    def per_sample(self) -> Tensor:
        """Mean over each sample's supervised entries ``[B]``; zero where it has none."""
        losses, weights = self._weighted()
        return losses.sum(1) / _above_zero(weights.sum(1))

    def covered(self) -> Tensor:
        """Share of the samples that have a supervised entry."""
        counts = self._supervised()
        return counts.reshape(len(counts), -1).any(1).float().mean()


def _above_zero(count: Tensor) -> Tensor:
    """What to divide by: nothing counts where the sum is 0, and of nothing the mean is 0."""
    return torch.where(count > 0, count, torch.ones_like(count))


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
        logged |= {f"{name}_labelled": term.covered(), **{f"{name}_{k}": v.detach() for k, v in term.metrics.items()}}
    logged["loss"] = loss.detach().mean()
    # Of held-out batches the means are taken over all of them together: some may have nothing to measure.
    held_out = not torch.is_grad_enabled()
    return loss, Figures(logged, {name: term.sums() for name, term in terms.items()} if held_out else None)
