"""The running average of a policy's weights."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hlrp.sharded import own_part


class RunningAverage(AveragedModel):
    """PyTorch's exponential average, which asks the device once, and not at every update, whether it is the first.

    Of trained weights in bfloat16 or float16 the average is kept in float32: what a step adds to it is less than their
    last digit, and would be lost. `module` has it rounded to their type; `state_dict` has it as it is kept, under the
    same names, and takes a rounded one too.

    Args:
        model: What is averaged; `module` is a copy of it.
        decay: In (0, 1).
    """

    n_averaged: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self._update: Any = get_ema_multi_avg_fn(decay)
        self._begun: bool | None = None
        self._trained = [parameter.requires_grad for parameter in model.parameters()]
        self._kept: dict[int, Tensor] | None = None
        self.register_state_dict_post_hook(_show_kept)
        self.register_load_state_dict_post_hook(_take_loaded)

    def kept(self) -> dict[int, Tensor]:
        """What is kept in float32, of it the parts of this process, by the parameter's number in `module`."""
        if self._kept is None:  # not before the module is where it trains, and spread as it is there
            parts = {i: own_part(p.detach()) for i, p in enumerate(self.module.parameters()) if self._trained[i]}
            floats = {i: part for i, part in parts.items() if part.is_floating_point()}
            self._kept = {i: part.float() for i, part in floats.items() if torch.finfo(part.dtype).bits < 32}
        return self._kept

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights of ``model`` into the average; the first ones become it. Buffers are copied."""
        if self._begun is None:
            self._begun = bool(self.n_averaged > 0)
        kept, alike = self.kept(), dict[torch.dtype, tuple[list[Tensor], list[Tensor]]]()
        for i, (mean, weight) in enumerate(zip(self.module.parameters(), model.parameters(), strict=True)):
            if i in kept:  # one at a time: all of the weights in float32 would take that memory again
                self._average([kept[i]], [own_part(weight.detach()).float()])
                continue
            means, weights = alike.setdefault(mean.dtype, ([], []))
            means.append(own_part(mean.detach()))
            weights.append(own_part(weight.detach()))
        for means, weights in alike.values():
            self._average(means, weights)
        self.round()
        for copied, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
        self.n_averaged += 1
        self._begun = True

    def _average(self, means: list[Tensor], weights: list[Tensor]) -> None:
        if self._begun:
            self._update(means, weights, self.n_averaged)
        else:
            torch._foreach_copy_(means, weights)

    @torch.no_grad()
    def round(self) -> None:
        """Give `module` what is kept in float32."""
        if kept := self.kept():
            shown = [own_part(p.detach()) for i, p in enumerate(self.module.parameters()) if i in kept]
            torch._foreach_copy_(shown, list(kept.values()))

    def kept_by_name(self) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        """Name in the state, parameter, and what is kept of it in float32."""
        kept = self.kept()
        for i, (name, parameter) in enumerate(self.module.named_parameters()):
            if i in kept:
                yield f"module.{name}", parameter, kept[i]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, _, part in self.kept_by_name():
            saved = state_dict.get(prefix + name)
            if saved is not None and own_part(saved).shape == part.shape:  # else the parameter itself says so
                part.copy_(own_part(saved).detach())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RunningAverage":
        super()._apply(fn, recurse)
        if self._kept is not None:
            self._kept = {i: fn(part).float() for i, part in self._kept.items()}
        return self


def _show_kept(average: RunningAverage, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name, parameter, part in average.kept_by_name():
        shown: Tensor = part
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            # The part itself and no copy: sharded states are read into the tensors of a state.
            shown = DTensor.from_local(
                part, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
            )
        state[prefix + name] = shown


def _take_loaded(average: RunningAverage, _: Any) -> None:
    average._begun = None
    average.round()
