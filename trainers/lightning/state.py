"""Checkpoints without pickle: what Lightning wants to keep, as safetensors (tensors) and JSON (all else)."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from hlrp.errors import UserError, WorkError
from hlrp.files import write_text
from hlrp.runs.checkpoints import LIGHTNING_STATE, LIGHTNING_TENSORS, safetensors_problem

SCHEMA_VERSION = 1
_KIND = "$kind"
# A run is rebuilt from its `config.yaml`; hyper-parameters in the checkpoint could be any object.
_NOT_KEPT = ("hyper_parameters", "datamodule_hyper_parameters", "hparams_name", "datamodule_hparams_name")


def encode(value: Any, tensors: dict[str, torch.Tensor], where: str = "") -> Any:  # noqa: PLR0911 - one per kind
    """Turn a nested value into JSON, moving its tensors and arrays into ``tensors``.

    Args:
        value: Mappings, lists, tuples, sets, numbers, text, tensors and arrays, nested at will.
        tensors: Receives the tensors under names that the JSON refers to.
        where: Path of ``value`` in the whole, for messages.

    Raises:
        WorkError: Something else is inside; it names the place.
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_KIND: "float", "value": repr(value)}
    if isinstance(value, torch.Tensor):
        return _keep(value, tensors, "tensor")
    if isinstance(value, np.ndarray | np.generic):
        # numpy's scalars pass through an array of no dimensions, which keeps their type.
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return _keep(torch.from_numpy(np.array(value)), tensors, kind)
    if isinstance(value, Mapping):
        return _encode_mapping(value, tensors, where)
    if isinstance(value, list):
        return [encode(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple | set | frozenset):
        kind = "tuple" if isinstance(value, tuple) else "set"
        return {_KIND: kind, "items": [encode(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, Path):
        return {_KIND: "path", "value": str(value)}
    if isinstance(value, torch.dtype | torch.device):
        return {_KIND: type(value).__name__, "value": str(value).removeprefix("torch.")}
    raise WorkError(
        f"the checkpoint would hold a {type(value).__module__}.{type(value).__qualname__} at {where or 'its root'}, "
        "which cannot be written without pickle: keep numbers, text, tensors, lists and mappings in state_dict()"
    )


def _keep(tensor: torch.Tensor, tensors: dict[str, torch.Tensor], kind: str) -> dict[str, str]:
    name = str(len(tensors))
    # A copy: safetensors refuses tensors that share memory, and training goes on while a slow disk is written.
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return {_KIND: kind, "name": name}


def _encode_mapping(value: Mapping[Any, Any], tensors: dict[str, torch.Tensor], where: str) -> dict[str, Any]:
    if all(isinstance(key, str) for key in value) and _KIND not in value:
        return {key: encode(item, tensors, f"{where}.{key}" if where else key) for key, item in value.items()}
    # An optimizer's state has numbers as keys, which JSON would turn into text.
    pairs = [[encode(k, tensors, f"{where}.{k}"), encode(v, tensors, f"{where}.{k}")] for k, v in value.items()]
    return {_KIND: "mapping", "pairs": pairs}


def decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:  # noqa: PLR0911 - one per kind
    """Undo `encode`."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: decode(item, tensors) for key, item in value.items()}
    if kind == "mapping":
        return {_hashable(decode(k, tensors)): decode(v, tensors) for k, v in value["pairs"]}
    if kind in ("tensor", "array", "scalar"):
        tensor = tensors[value["name"]]
        return tensor if kind == "tensor" else tensor.numpy() if kind == "array" else tensor.numpy()[()]
    if kind in ("tuple", "set"):
        items = [decode(item, tensors) for item in value["items"]]
        return tuple(items) if kind == "tuple" else set(items)
    return _decode_text(kind, value["value"])


def _hashable(key: Any) -> Any:
    return key.item() if isinstance(key, torch.Tensor) else key


def _decode_text(kind: str, text: str) -> Any:
    if kind == "float":
        return float(text)
    if kind == "path":
        return Path(text)
    if kind == "device":
        return torch.device(text)
    if kind == "dtype":
        return getattr(torch, text)
    raise ValueError(f"unknown kind {kind!r}")


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoint as a folder of two files; nothing that is read can run code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` into the folder ``path``.

        Raises:
            WorkError: It holds something that neither safetensors nor JSON can.
        """
        from safetensors.torch import save_file

        kept = {key: value for key, value in checkpoint.items() if key not in _NOT_KEPT}
        tensors: dict[str, torch.Tensor] = {}
        content = {"schema_version": SCHEMA_VERSION, "checkpoint": encode(kept, tensors)}
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / LIGHTNING_TENSORS)
        write_text(folder / LIGHTNING_STATE, json.dumps(content))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a folder that `save_checkpoint` wrote; tensors are on the CPU.

        Raises:
            UserError: It is anything else, a `.ckpt` file included.
        """
        from safetensors.torch import load_file

        folder = Path(path)
        state = folder / LIGHTNING_STATE
        if not state.is_file():
            raise UserError(
                f"{folder} is not a training state written by this trainer",
                where=str(folder),
                fix=f"give a folder with {LIGHTNING_STATE} and {LIGHTNING_TENSORS}; pickled .ckpt files are never read",
            )
        if problem := safetensors_problem(folder / LIGHTNING_TENSORS):
            raise UserError(f"the training state is damaged: {problem}", where=str(folder), fix="use an older one")
        try:
            content = json.loads(state.read_text(encoding="utf8"))
            if content["schema_version"] != SCHEMA_VERSION:
                raise UserError(
                    f"the training state has version {content['schema_version']}, this hlrp reads {SCHEMA_VERSION}",
                    where=str(state),
                    fix="resume with the hlrp that wrote it",
                )
            loaded: dict[str, Any] = decode(content["checkpoint"], load_file(folder / LIGHTNING_TENSORS))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the training state is damaged: {error!r}", where=str(state), fix="use an older one"
            ) from error
        return loaded

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the folder."""
        shutil.rmtree(path, ignore_errors=True)
