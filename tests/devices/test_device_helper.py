"""The pretended device itself: what would fail or wait on a GPU fails here, and says where."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pretended_cuda import CUDA, HostReadError, PretendedCuda, WrongDeviceError, move, pretended_cuda
from torch import Tensor, nn

READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).any()),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy": lambda x: torch.empty(4, 3).copy_(x),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: np.asarray(x) + 1,
    "index": lambda x: x[x > 0],
    "assign": lambda x: x.__setitem__(x > 0, x[0]),
    "nonzero": lambda x: x.nonzero(),
    "bincount": lambda x: torch.bincount(x[0].long(), minlength=4),
    "unique": lambda x: x.unique(),
    "repeat": lambda x: x.repeat_interleave(x[:, 0].long(), 0),
    "format": lambda x: f"{x.sum()}",
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_value_read_on_the_host_is_an_error_that_names_the_line(read: Callable[[Tensor], Any]) -> None:
    with (
        pretended_cuda(),
        pytest.raises(HostReadError, match=rf"test_device_helper.py:{read.__code__.co_firstlineno} "),
    ):
        read(torch.zeros(4, 3, device="cuda"))


MIXES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda gpu, cpu: gpu + cpu,
    "cat": lambda gpu, cpu: torch.cat([gpu, cpu]),
    "where": lambda gpu, cpu: torch.where(cpu > 0, gpu, gpu),
    "matmul": lambda gpu, cpu: gpu @ cpu.T,
    "embedding": lambda gpu, cpu: nn.functional.embedding(cpu[0].long(), gpu),
    "module": lambda gpu, cpu: nn.Linear(3, 3)(gpu),
    "generator": lambda gpu, cpu: torch.randn(3, device="cuda", generator=torch.Generator()),
    "add_": lambda gpu, cpu: cpu.add_(gpu),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_two_devices_are_an_error_that_names_the_line(mix: Callable[[Tensor, Tensor], Any]) -> None:
    with pretended_cuda(), pytest.raises(WrongDeviceError, match=rf"helper.py:{mix.__code__.co_firstlineno} "):
        mix(torch.zeros(4, 3, device="cuda"), torch.zeros(4, 3))


def test_what_a_gpu_does_without_waiting_is_no_error() -> None:
    with pretended_cuda() as cuda:
        x = torch.randn(4, 3).to("cuda", non_blocking=True)
        assert x.device == CUDA and x.is_cuda and x.to("cuda") is x and x.to(x.device, x.dtype) is x
        assert x.to(torch.bfloat16).device == CUDA and torch.zeros_like(x).device == x.new_zeros(2).device == CUDA
        (x + torch.tensor(2.0))[torch.tensor([0, 1])] = 0.0
        x[x > 0] = 1.0
        torch.where(x > 0, x, 0).sum().square_()
        # The CPU is as real as ever.
        assert torch.arange(4).sum().item() == 6 and torch.arange(4)[torch.arange(4) > 1].tolist() == [2, 3]
        assert isinstance(cuda, PretendedCuda) and not cuda.reads


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {}], ids=str)
def test_a_step_runs_whole(options: dict[str, Any]) -> None:
    with pretended_cuda():
        net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).to("cuda")
        tied = nn.ModuleList([net[0], nn.Linear(3, 3)])
        tied[1].weight = tied[0].weight
        assert tied.to("cuda")[1].weight is net[0].weight
        assert copy.deepcopy(net).to(torch.bfloat16)[0].weight.dtype == torch.bfloat16
        optimizer = torch.optim.AdamW(net.parameters(), **options)
        for _ in range(2):
            net(move({"x": torch.randn(4, 3)})["x"]).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        assert all(p.device == CUDA and p.requires_grad for p in net.parameters())


def test_the_list_of_known_reads_fails_in_both_directions() -> None:
    def reads(x: Tensor) -> float:
        return x.sum().item()

    known = "tests/devices/test_device_helper.py:reads"
    with pretended_cuda(known=[known]) as cuda:
        assert reads(torch.zeros(2, device="cuda")) == 1
        assert [place.function for place in cuda.reads] == [known]
        with pytest.raises(HostReadError):
            torch.zeros(2, device="cuda").tolist()
    with pytest.raises(AssertionError, match="take them off the list"), pretended_cuda(known=[known]):
        pass
