"""The stacked layers of a module, such as a transformer's: units of sharding, and of computing twice to save memory."""

from contextlib import AbstractContextManager, nullcontext
from copy import copy
from itertools import chain, repeat
from typing import Any

import torch
from torch import nn
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from hlrp.config import LightningTrainerSection
from hlrp.errors import UserError

_KERNELS = {
    SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: cuda.cudnn_sdp_enabled,
    SDPBackend.MATH: cuda.math_sdp_enabled,
}


def stacks(module: nn.Module) -> list[list[nn.Module]]:
    """The stacks of layers in a module: a `ModuleList`'s entries that consist of several parts with weights.

    Stacks within layers are left out.
    """
    found: list[list[nn.Module]] = []
    inside: set[nn.Module] = set()
    for stack in module.modules():  # what holds others comes before them
        if not isinstance(stack, nn.ModuleList) or stack in inside:
            continue
        layers = [layer for layer in stack if layer not in inside and _is_layer(layer)]
        for layer in layers:
            inside.update(layer.modules())
        if layers:
            found.append(layers)
    return found


def _is_layer(entry: nn.Module) -> bool:
    """Whether it computes something, with more than one part that has weights."""
    weighted = sum(any(True for _ in part.parameters(recurse=False)) for part in entry.modules())
    return weighted > 1 and not isinstance(entry, nn.ModuleList | nn.ModuleDict)


def check_layers(module: nn.Module, section: LightningTrainerSection) -> None:
    """Refuse what the section asks of a module that is not made for it; one without weights yet is looked at later.

    Raises:
        UserError: There are no layers to compute again, or a weight that cannot be divided among processes.
    """
    weights = dict(module.named_parameters())
    if weights and section.activation_checkpointing and not stacks(module):
        raise UserError(
            f"{type(module).__name__} has no stacked layers to compute again",
            where="trainer.activation_checkpointing",
            fix="leave it out",
        )
    single = next((name for name, weight in weights.items() if weight.dim() == 0), None)
    if single is not None and section.strategy == "fsdp":
        raise UserError(
            f"the weight {single} is a single number, which cannot be spread over processes",
            where="trainer.strategy",
            fix="use ddp",
        )


def recompute_layers(module: nn.Module) -> None:
    """Keep only the inputs of stacked layers for the backward pass, which computes the layers again.

    The numbers stay the same, dropout's included. transformers' own way is not taken: it withholds the cache that an
    action expert reads the layers' keys and values from.
    """
    for layer in (layer for stack in stacks(module) for layer in stack):
        layer.forward = _Recomputed(layer)


class _Recomputed:
    """A layer's forward pass that keeps nothing but its inputs where gradients will be asked for."""

    def __init__(self, layer: nn.Module) -> None:
        self._forward = layer.forward
        self._learns = any(weight.requires_grad for weight in layer.parameters())

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        # A frozen layer keeps nothing for the backward pass anyway, unless gradients go through it.
        given = (*inputs, *named.values())
        asked = self._learns or any(isinstance(value, torch.Tensor) and value.requires_grad for value in given)
        if not (asked and torch.is_grad_enabled()):
            return self._forward(*inputs, **named)
        # What is compiled is computed again by the kernels that it was compiled to.
        again: dict[str, Any] = {} if torch.compiler.is_compiling() else {"context_fn": _same_kernels}
        cache = named.get("past_key_values")
        if cache is None or not (cache.layers or cache.layer_class_to_replicate):  # or one that keeps nothing
            return checkpoint(self._forward, *inputs, use_reentrant=False, **again, **named)
        # Computed again it adds its keys and values to what the cache held then, not to what it holds by now.
        held = _copy_of(cache)
        caches = chain([cache], map(_copy_of, repeat(held)))

        def run(*inputs: Any, **named: Any) -> Any:
            return self._forward(*inputs, **named, past_key_values=next(caches))

        rest = {name: value for name, value in named.items() if value is not cache}
        return checkpoint(run, *inputs, use_reentrant=False, **again, **rest)


def _same_kernels() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For a layer, and for computing it again: with the kernels of attention that are allowed now."""
    return nullcontext(), sdpa_kernel([kernel for kernel, allowed in _KERNELS.items() if allowed()])


def _copy_of(cache: Any) -> Any:
    """A cache of transformers that holds the same tensors: one copy is not changed by what another one is given."""
    again = copy(cache)
    again.layers = [copy(layer) for layer in cache.layers]
    return again
