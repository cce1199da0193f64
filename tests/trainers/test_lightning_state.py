"""Training state without pickle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hlrp.errors import UserError, WorkError
from trainers.lightning.state import SafeCheckpointIO


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and bool(np.all(a == b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


def test_everything_that_training_keeps_comes_back_with_its_type(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    state = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp": weight}, 7: {}}, "betas": (0.9, 0.99)},
        "shared": [weight, weight.T, weight[1]],
        "bf16": torch.ones(2, dtype=torch.bfloat16),
        "rng": (3, tuple(range(5)), None),
        "numpy": {"key": np.arange(4, dtype=np.uint32), "pos": np.int64(4)},
        "floats": [float("inf"), float("-inf"), 0.1, -0.0, True, None, "text"],
        "$kind": "a key of the same name",
        "places": [Path("a/b"), torch.float16, torch.device("cpu")],
    }
    SafeCheckpointIO().save_checkpoint(state, tmp_path / "state")
    assert _same(state, SafeCheckpointIO().load_checkpoint(tmp_path / "state"))
    assert {p.suffix for p in (tmp_path / "state").iterdir()} == {".json", ".safetensors"}


def test_an_object_is_refused_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"Module at callbacks\.mine\[1\]"):
        SafeCheckpointIO().save_checkpoint({"callbacks": {"mine": [1, torch.nn.Module()]}}, tmp_path / "state")


def test_a_pickled_checkpoint_is_never_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="not a training state"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    io, folder = SafeCheckpointIO(), tmp_path / "state"
    io.save_checkpoint({"w": torch.zeros(100)}, folder)
    tensors = folder / "lightning.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="truncated"):
        io.load_checkpoint(folder)
    tensors.write_bytes(whole)
    content = json.loads((folder / "lightning.json").read_text())
    (folder / "lightning.json").write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(UserError, match="version 99"):
        io.load_checkpoint(folder)
