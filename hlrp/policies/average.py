"""The running average of a policy's weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hlrp.sharded import own_part


class RunningAverage(AveragedModel):
    """PyTorch's exponential average, which asks the device once, and not at every update, whether it is the first.

    Args:
        model: What is averaged; `module` is a copy of it.
        decay: In (0, 1).
    """

    n_averaged: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self._update: Any = get_ema_multi_avg_fn(decay)
        self._begun: bool | None = None
        self.register_load_state_dict_post_hook(_ask_again)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights of ``model`` into the average; the first ones become it. Buffers are copied."""
        if self._begun is None:
            self._begun = bool(self.n_averaged > 0)
        alike: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for mean, weight in zip(self.module.parameters(), model.parameters(), strict=True):
            means, weights = alike.setdefault(mean.dtype, ([], []))
            means.append(own_part(mean.detach()))
            weights.append(own_part(weight.detach()))
        for means, weights in alike.values():
            if self._begun:
                self._update(means, weights, self.n_averaged)
            else:
                torch._foreach_copy_(means, weights)
        for copied, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
        self.n_averaged += 1
        self._begun = True


def _ask_again(average: Any, _: Any) -> None:
    average._begun = None
