"""How far a policy acts on its codes: what changes when each sample is given the codes of another.

Shapes: B batch, P code positions, K codes, H actions of a chunk, A width of an action.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hlrp.policies.figures import Figures


@dataclass(frozen=True)
class Conditioned:
    """A policy's view of a batch, which can be asked again with other codes.

    Args:
        codes: The policy's own, as shares ``[B, P, K]``.
        losses: From shares to the losses of the actions, ``[B, H, A]``; by the same noise and times at each call.
        sample: From shares to a chunk ``[B, H, A]``; from the same noise at each call.
    """

    codes: Tensor
    losses: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor], Tensor]


def measure_effect(view: Conditioned, actions: Tensor, there: Tensor, steps: int, order: Tensor) -> Figures:
    """Compare a policy's own codes with those of other samples.

    Args:
        view: The policy's.
        actions: Normalised, ``[B, H, A]``, finite.
        there: Which of them lie in the episode, bool ``[B, H]``.
        steps: Of the chunk, how many are executed.
        order: A permutation of the samples, int64 ``[B]``: each is given the codes of the one that follows in it.

    Returns:
        `code_effect`: loss with other samples' codes less that with its own; `code_shift`: root mean square by which
        the executed actions move, in spreads (standard deviations) of the true ones; `action_r2` and
        `action_r2_permuted`: R2 of the executed actions, all dimensions together, with its own codes and with others'.
    """
    others = torch.empty_like(view.codes)
    others[order] = view.codes[order.roll(-1)]
    rises = view.losses(others) - view.losses(view.codes)
    own, moved = (view.sample(codes)[:, :steps].float() for codes in (view.codes, others))
    executed = there[:, :steps]
    true = actions[:, :steps].float()[executed]
    spread = (true - true.mean(0)).square().sum()
    return Figures(
        {
            "code_effect": rises[there].mean(),
            "code_shift": ((own - moved)[executed].square().sum() / spread).sqrt(),
            "action_r2": 1 - (own[executed] - true).square().sum() / spread,
            "action_r2_permuted": 1 - (moved[executed] - true).square().sum() / spread,
        }
    )
