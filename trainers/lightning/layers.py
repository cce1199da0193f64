"""The stacked layers of a module, such as a transformer's: units of sharding, and of computing twice to save memory."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hlrp.errors import UserError


def stacked_layers(module: nn.Module) -> list[nn.Module]:
    """The layers of every stack in a module: entries of a `ModuleList` that consist of several parts with weights.

    Layers within layers are left out.
    """
    layers: dict[nn.Module, None] = {}
    inside: set[nn.Module] = set()
    for stack in module.modules():  # what holds others comes before them
        if not isinstance(stack, nn.ModuleList) or stack in inside:
            continue
        for layer in stack:
            if sum(any(True for _ in part.parameters(recurse=False)) for part in layer.modules()) > 1:
                layers[layer] = None
                inside.update(layer.modules())
    return list(layers)


def recompute_layers(module: nn.Module) -> None:
    """Keep only the inputs of stacked layers for the backward pass, which computes the layers again.

    The numbers stay the same, dropout's included.

    Raises:
        UserError: The module has no such layers.
    """
    transformers = [part for part in module.modules() if getattr(part, "supports_gradient_checkpointing", False)]
    for part in transformers:
        # Those of transformers know which caches they must not fill twice.
        part.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    theirs = {layer for part in transformers for layer in stacked_layers(part)}
    layers = stacked_layers(module)
    if not layers:
        raise UserError(
            f"{type(module).__name__} has no stacked layers to compute again",
            where="trainer.activation_checkpointing",
            fix="leave it out",
        )
    for layer in layers:
        if layer not in theirs:
            layer.forward = _Recomputed(layer)


class _Recomputed:
    """A layer's forward pass that keeps nothing but its inputs while training."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self._forward = layer, layer.forward

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not (self._layer.training and torch.is_grad_enabled()):
            return self._forward(*inputs, **named)
        return checkpoint(self._forward, *inputs, use_reentrant=False, **named)
