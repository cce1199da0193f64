"""Random states of GPUs, here stand-ins: each process's own, whatever its number is where a run goes on."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from lightning_runs import fit, resume

from trainers.lightning.resumable_loader import rng_states, set_rng_states


def generator(seed: int, drawn: int) -> torch.Tensor:
    """The state of a GPU's generator, as PyTorch lays it out."""
    return torch.tensor([seed, drawn]).view(torch.uint8)


class Gpus:
    """Generators by number, and which GPU is the current one."""

    def __init__(self, count: int, seed: int) -> None:
        self.states, self.current = [generator(seed, 0) for _ in range(count)], 0


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Gpus]]:
    """A machine whose GPUs are those of the last item."""
    machine: list[Gpus] = []

    def number(device: Any) -> int:
        index = torch.device(device).index if not isinstance(device, int) else device
        return machine[-1].current if index is None else index

    def take(state: torch.Tensor, device: Any = "cuda") -> None:
        machine[-1].states[number(device)] = state.clone()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(machine[-1].states))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": machine[-1].states[number(device)].clone())
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [state.clone() for state in machine[-1].states])
    monkeypatch.setattr(torch.cuda, "set_rng_state", take)
    yield machine


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "earlier"])
@pytest.mark.parametrize(("before", "after"), [((4, 1), (8, 5)), ((8, 5), (4, 1)), ((1, 0), (4, 2)), ((4, 3), (4, 3))])
def test_the_state_of_a_processes_own_gpu_goes_with_it(
    gpus: list[Gpus], before: tuple[int, int], after: tuple[int, int], earlier: bool
) -> None:
    """GPUs of a node and the number of the own one, before and after; once as earlier versions saved it."""
    gpus.append(Gpus(before[0], seed=7))
    gpus[-1].current = before[1]
    gpus[-1].states[before[1]] = generator(7, 640)
    saved = rng_states()
    if earlier:
        saved["cuda"] = torch.cuda.get_rng_state_all()
    else:
        assert torch.equal(saved["cuda"], generator(7, 640))
    gpus.append(Gpus(after[0], seed=9))
    gpus[-1].current = after[1]
    set_rng_states(saved)
    expected = [generator(7, 640) if i == after[1] else generator(9, 0) for i in range(after[0])]
    assert torch.equal(torch.stack(gpus[-1].states), torch.stack(expected))


def test_where_no_state_of_a_gpu_was_saved_it_is_seeded_by_rank_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was saved by a process without one."""
    fit(tmp_path / "run", steps=4, save_freq=4, device="cpu", seed=30)
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    resume(tmp_path / "run", steps=6)
    assert seeds == [30 + 0 + 4]
