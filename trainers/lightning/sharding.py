"""Training with the weights spread over the processes: FSDP2 under Lightning, on GPUs and on CPUs."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from hlrp.sharded import take_apart
from trainers.lightning.layers import stacks
from trainers.lightning.shards import load_shards, save_shards


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's model-parallel strategy with FSDP2 over all processes, of any module and on any device.

    Lightning leaves it to each module to spread itself; here every layer of a stack is a unit of its own, and what is
    left one more. Weights, gradients and the optimizer's state are spread; a unit is put together while it computes.
    Numbers are those of DDP up to the order of sums. A checkpoint holds each process's part, in safetensors, and is
    read by any number of processes.
    """

    def setup_environment(self) -> None:
        """One group of all processes; none of them splits a tensor for its own computation."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Spread the module, which is made by now, then make its optimizers."""
        assert self.accelerator is not None and self.lightning_module is not None
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self.lightning_module)
        self.model_to_device()
        self.model = spread(self.lightning_module, self.device_mesh["data_parallel"])
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's state; of weights the part of this process."""
        return self._spread_module().state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """An optimizer's state by the names of the parameters."""
        names = {parameter: name for name, parameter in self._spread_module().named_parameters()}
        groups = [{**group, "params": [names[p] for p in group["params"]]} for group in optimizer.param_groups]
        return {"state": {names[p]: dict(values) for p, values in optimizer.state.items()}, "param_groups": groups}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write the parts of all processes, and the rest from the first one; every process has to call it."""
        # The first process says when the folder is there.
        folder = Path(self.broadcast(str(filepath)))
        rest = save_shards(checkpoint, folder, self._spread_module())
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(rest, folder)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote, in any number of processes, into the module and its optimizers.

        Raises:
            UserError: It is damaged, or of another model.
        """
        folder = Path(self.broadcast(str(checkpoint_path)))
        loaded = self.checkpoint_io.load_checkpoint(folder)
        module, states = self._spread_module(), loaded.get("optimizer_states", [])
        load_shards(folder, module, states)
        module.load_state_dict(loaded["state_dict"], strict=False)  # what is not spread: buffers
        for optimizer, state in zip(self.optimizers, states, strict=False):
            optimizer.load_state_dict(state)
        return loaded

    def _spread_module(self) -> LightningModule:
        assert self.model is not None and self.lightning_module is not None
        take_apart(self.model)
        return self.lightning_module


class _Root(nn.Module):
    """What Lightning calls a module's steps through, so that the weights outside of its layers are put together."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.module(*inputs, **named) if inputs or named else None


def spread(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Spread a module's weights over the processes of ``mesh``; gives the module to call in its place.

    Args:
        module: Whose weights all have a dimension, see `check_layers`.
        mesh: Of one dimension.
    """
    for stack in stacks(module):
        for layer in stack:
            # The last layer's backward pass is the first. And one that only leaves keys and values to others, as that
            # of a prefix, is not told by its output when its backward pass begins.
            _make_unit(layer, mesh, reshard_after_forward=layer is not stack[-1])
            for part in layer.modules():
                if part is not layer and any(True for _ in part.parameters(recurse=False)):
                    # Some models, SmolVLA's among them, compute with the parts of a layer and never call the layer.
                    part.register_forward_pre_hook(_Gather(layer))
    root = _Root(module)
    _make_unit(root, mesh)
    root()  # FSDP takes what is called first for the root, and a module may use its layers before its first step
    take_apart(root)
    return root


class _Gather:
    """Puts a layer together before a part of it computes; it is taken apart with the backward pass."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def __call__(self, *_: Any) -> None:
        assert isinstance(self._layer, FSDPModule)
        self._layer.unshard()


def _make_unit(module: nn.Module, mesh: DeviceMesh, *, reshard_after_forward: bool | None = None) -> None:
    """All that is not in a unit yet becomes one; parts in another precision than most of it, units of their own."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in module.parameters():
        if not isinstance(parameter, DTensor):
            sizes[parameter.dtype] += parameter.numel()
    for part in module.modules() if len(sizes) > 1 else ():
        own = {p.dtype for p in part.parameters(recurse=False) if not isinstance(p, DTensor)}
        if own and own != {sizes.most_common(1)[0][0]}:
            fully_shard(part, mesh=mesh, reshard_after_forward=reshard_after_forward)
    fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward)
