"""The parts of a sharded training's state: each process writes its own, and any number of processes read them again.

By `torch.distributed.checkpoint` in safetensors; its own format is pickled. Importing it takes half a second.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from hlrp.errors import UserError
from hlrp.runs.checkpoints import LIGHTNING_SHARDS


def save_shards(checkpoint: dict[str, Any], folder: Path, module: nn.Module) -> dict[str, Any]:
    """Write this process's parts of what is spread over several; every process has to call it.

    Args:
        checkpoint: Lightning's, with the optimizers' states by the names of parameters.
        folder: That of the training state.
        module: Whose weights they are; one with several names is written under the first, as the optimizers name it.

    Returns:
        The rest, with the names of the files under `shards`.
    """
    parts: dict[str, torch.Tensor] = {}

    def take(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        parts.update({f"{prefix}.{name}": value for name, value in values.items() if isinstance(value, DTensor)})
        return {name: value for name, value in values.items() if not isinstance(value, DTensor)}

    others = _other_names(module)
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name not in others}
    rest = {**checkpoint, "state_dict": take(weights, "model")}
    if "optimizer_states" in checkpoint:
        rest["optimizer_states"] = [
            {**state, "state": {name: take(v, f"optimizer_{i}.{name}") for name, v in state["state"].items()}}
            for i, state in enumerate(checkpoint["optimizer_states"])
        ]
    shards = folder / LIGHTNING_SHARDS
    dcp.save(parts, storage_writer=HuggingFaceStorageWriter(str(shards), save_distributed=True))
    return rest | {"shards": sorted(path.name for path in shards.glob("*.safetensors"))}


def load_shards(folder: Path, module: nn.Module, states: list[dict[str, Any]]) -> None:
    """Read this process's parts of what `save_shards` wrote in any number of processes; every one has to call it.

    Args:
        folder: That of the training state.
        module: Its weights are set.
        states: The optimizers' states by the names of parameters; their tensors are added.

    Raises:
        UserError: The files are of another model.
    """
    reader = HuggingFaceStorageReader(str(folder / LIGHTNING_SHARDS))
    saved = reader.read_metadata().state_dict_metadata
    others = _other_names(module)
    weights = {name: value for name, value in module.state_dict().items() if name not in others}
    parts: dict[str, torch.Tensor] = {f"model.{k}": value for k, value in weights.items() if isinstance(value, DTensor)}
    parameters = dict(module.named_parameters())
    for key, metadata in saved.items():
        place, _, rest = key.partition(".")
        name, _, kind = rest.rpartition(".")
        if place != "model" and name in parameters and isinstance(metadata, TensorStorageMetadata):
            part = torch.empty_like(parameters[name].detach(), dtype=metadata.properties.dtype)
            states[int(place.removeprefix("optimizer_"))]["state"].setdefault(name, {})[kind] = parts[key] = part
    if other := sorted(parts.keys() ^ saved.keys()):
        raise UserError(
            f"the training state is of another model: {other[0]} is in one of both alone",
            where=str(folder),
            fix="resume with the model that the run began with",
        )
    dcp.load(parts, storage_reader=reader)


def _other_names(module: nn.Module) -> set[str]:
    """Names beside the first of weights that have several: their parts share memory, which safetensors refuses."""
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return names - {name for name, _ in module.named_parameters()}
