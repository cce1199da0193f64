"""Weights that FSDP2 has spread over the processes of a run, put together to be looked at, saved or changed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on its own device; of one that is spread every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: all of it, unless it is spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def agreed(verdict: bool, tensors: Sequence[Tensor]) -> bool:
    """Whether every process that has a part of ``tensors`` comes to ``verdict``; if any is spread, each has to ask."""
    spread = next((tensor for tensor in tensors if isinstance(tensor, DTensor)), None)
    if spread is None:
        return verdict
    votes = torch.tensor(float(verdict), device=spread.device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MIN, spread.device_mesh.get_group())
    return bool(votes)


def take_apart(module: nn.Module) -> None:
    """Have every process keep its parts alone: after a pass without a backward pass some units are still whole."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def whole_weights(
    module: nn.Module, *, wanted: bool = True, device: torch.device | str | None = None, changed: bool = False
) -> Iterator[None]:
    """Inside, the module's parameters are whole; nothing happens to those that are not spread.

    Every process has to enter. One parameter after the other is put together, so that ``device`` alone has to hold all.
    A forward pass inside gives stacked layers their parts back: change nothing of them after it.

    Args:
        module: Between two steps, its forward pass not running.
        wanted: Whether this process looks at them; the others only give their parts.
        device: Where the whole ones are; None: where the parts are.
        changed: Whether what the block makes of them is kept; every process must then make the same of them.
    """
    spread = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    # One that has several names is put together once by those that look at it and by the others.
    distinct = {id(parameter): parameter for _, _, parameter in spread}
    put_together: dict[int, nn.Parameter] = {}
    for key, parameter in distinct.items():
        full = whole(parameter.detach())
        if wanted:
            # A copy: parts of different lengths are put together in more memory than the whole takes.
            put_together[key] = nn.Parameter(full.to(device, copy=True), parameter.requires_grad)
    try:
        for part, name, parameter in spread if wanted else ():
            part._parameters[name] = put_together[id(parameter)]
        yield
        if changed:
            with torch.no_grad():
                for key, parameter in distinct.items():
                    full, mesh = put_together[key].detach().to(parameter.device), parameter.device_mesh
                    parameter.copy_(distribute_tensor(full, mesh, parameter.placements, src_data_rank=None))
    finally:
        for part, name, parameter in spread:
            part._parameters[name] = parameter
        # FSDP holds layers that computed inside for whole still, and would not put them together for the next step.
        take_apart(module)
