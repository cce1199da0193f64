"""A device other than the current one: it becomes the current one, and labels wait for their own copies."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hlrp.devices import choose_device
from hlrp.latents.labelling import _to_host


@contextmanager
def four_gpus() -> Iterator[list[torch.device]]:
    """A machine with four of them, and which ones were made the current one."""
    made: list[torch.device] = []
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with ExitStack() as stack:
        stack.enter_context(patch("torch.cuda.is_available", return_value=True))
        stack.enter_context(patch("torch.cuda.device_count", return_value=4))
        stack.enter_context(patch("torch.cuda.set_device", lambda device: made.append(torch.device(device))))
        yield made
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_a_gpu_by_number_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "6")
    with four_gpus() as made:
        assert choose_device("cuda") == "cuda" and choose_device("cpu", per_process=True) == "cpu" and not made
        assert choose_device(None, per_process=True) == "cuda:2"
        assert choose_device("cuda:3", per_process=True) == "cuda:3"
        assert made == [torch.device("cuda", 2), torch.device("cuda", 3)]


class _Stream:
    """Stands for a GPU's stream: an event of it tells of which one it is."""

    def __init__(self, device: Any = None) -> None:
        self.device = torch.device("cuda", 0) if device is None else torch.device(device)

    def record_event(self) -> torch.device:
        return self.device


@pytest.mark.parametrize("vectors", [False, True])
def test_labels_wait_for_the_copies_of_their_own_gpu(vectors: bool) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), patch("torch.cuda.current_stream", _Stream):
        codes = torch.empty(2, 1, 4, dtype=torch.int64, device="cuda:3")
        given = torch.empty(2, 1, 4, 8, dtype=torch.bfloat16, device="cuda:3") if vectors else None
        codes, given, ready = _to_host(codes, given)
        assert ready == torch.device("cuda", 3) and codes.device.type == "cpu"
        assert (given is not None) == vectors and (given is None or given.dtype == torch.float32)
