"""Ending a training whose loss or weights are NaN or infinite, from which it never recovers."""

import math
from typing import TYPE_CHECKING

from hlrp.errors import WorkError

if TYPE_CHECKING:
    from torch.nn import Module


class NonFiniteError(WorkError):
    """Training has left the numbers: going on would only spend time, and saving would spoil checkpoints."""


class FiniteLoss:
    """Counts the steps in a row whose loss is no number.

    Args:
        most: Such steps that are put up with: mixed precision skips a few while it looks for its scale.
    """

    def __init__(self, most: int) -> None:
        self._most, self._row = most, 0

    def see(self, step: int, finite: bool) -> None:
        """Take the next step.

        Raises:
            NonFiniteError: As many as are allowed were not finite, one after the other.
        """
        self._row = 0 if finite else self._row + 1
        if self._row >= self._most:
            raise NonFiniteError(
                f"the loss was not a finite number for {self._row} steps in a row, from step {step - self._row + 1} "
                "on: lower the learning rate or check the data"
            )


def require_finite_weights(module: "Module", step: int) -> None:
    """Refuse weights that hold NaN or infinities; one wait for the device. Of a sharded module every process asks.

    Raises:
        NonFiniteError: They do.
    """
    from torch.nn.utils import get_total_norm

    from hlrp.sharded import agreed, own_part

    weights = [p.detach() for p in module.parameters() if p.is_floating_point()]
    parts = [part for part in map(own_part, weights) if part.numel()]
    # The largest magnitude: NaN and infinity come through, and nothing as large as the weights is made.
    finite = not parts or math.isfinite(get_total_norm(parts, norm_type=math.inf))
    if not agreed(finite, weights):
        raise NonFiniteError(
            f"the weights of step {step} are not finite numbers, and are not saved: lower the learning rate or check "
            "the data"
        )
