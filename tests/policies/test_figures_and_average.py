"""What a policy reports, left on its device, and the running average of its weights: PyTorch's own numbers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from two_processes import first_of_two

from hlrp.policies.average import RunningAverage
from hlrp.policies.figures import Figures
from hlrp.sharded import own_part, whole
from trainers.lightning.shards import load_shards, save_shards


def test_figures_are_numbers_when_they_are_looked_at() -> None:
    figures = Figures({"loss": torch.tensor(0.1), "accuracy": torch.tensor(0.75, dtype=torch.bfloat16), "plain": 2})
    assert figures.unread()["loss"].dtype == torch.float64  # type: ignore[union-attr]
    figures["more"] = 3.0
    assert dict(figures) == {"loss": torch.tensor(0.1).item(), "accuracy": 0.75, "plain": 2.0, "more": 3.0}
    assert all(isinstance(value, float) for value in figures.values())
    assert figures.unread() == {"loss": torch.tensor(0.1).item(), "accuracy": 0.75, "plain": 2, "more": 3.0}


def test_the_average_is_pytorchs_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).double())
    ours, theirs = RunningAverage(model, 0.9), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(4):
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                value.copy_(torch.rand(value.shape) * 9)
        if step == 2:  # a resumed run's
            resumed = RunningAverage(copy.deepcopy(model), 0.9)
            resumed.load_state_dict(ours.state_dict())
            ours = resumed
        ours.update_parameters(model)
        theirs.update_parameters(model)
        state = theirs.state_dict()
        assert ours.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items()), step


def test_the_average_of_bfloat16_weights_is_that_of_their_values_in_float32() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4).bfloat16(), nn.BatchNorm1d(4), nn.Linear(4, 2).bfloat16())
    model[2].bias.requires_grad_(False)
    model[2].bias.data.zero_()
    exact = copy.deepcopy(model).float()
    ours, theirs = RunningAverage(model, 0.999), AveragedModel(exact, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    ours.requires_grad_(False)
    for step in range(60):
        with torch.no_grad():
            for weight, copied in zip(model.parameters(), exact.parameters(), strict=True):
                if weight.requires_grad:
                    copied.copy_(weight.copy_(torch.rand(weight.shape) + step / 8))
        if step in (1, 30):  # a resumed run's, at 1 from a rounded state as earlier versions saved it
            state = copy.deepcopy(ours.state_dict())
            rounded = {f"module.{name}": value for name, value in ours.module.state_dict().items()}
            ours = RunningAverage(copy.deepcopy(model), 0.999).requires_grad_(False)
            assert not ours.load_state_dict(state | rounded if step == 1 else state).missing_keys
        ours.update_parameters(model)
        theirs.update_parameters(exact)
        state, expected = ours.state_dict(), theirs.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name].float(), expected[name].float()) for name in state), step
    assert state["module.0.weight"].dtype == torch.float32 and state["module.2.bias"].dtype == torch.bfloat16
    assert torch.equal(ours.module[0].weight, expected["module.0.weight"].bfloat16())
    assert float(expected["module.0.weight"].mean()) > 0.6, "from 0.5, by steps that bfloat16 rounds away"


def test_the_average_of_spread_bfloat16_weights_is_saved_and_read_in_float32(tmp_path: Path) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5, dtype=torch.bfloat16), nn.Linear(5, 3, dtype=torch.bfloat16))

    def moved(net: nn.Module, average: RunningAverage, step: int) -> None:
        with torch.no_grad():
            for weight in net.parameters():
                own_part(weight.detach()).fill_(1 + step)
        average.update_parameters(net)

    def both() -> nn.ModuleDict:
        net = model()
        return nn.ModuleDict({"net": net, "average": RunningAverage(net, 0.999).requires_grad_(False)})

    def made(mesh: Any) -> Any:
        pair: Any = both()
        for part in (pair["net"], pair["average"].module):
            fully_shard(part, mesh=mesh)
        return pair

    def spread(rank: int) -> dict[str, torch.Tensor]:
        mesh = init_device_mesh("cpu", (2,))
        before, after = made(mesh), made(mesh)
        for step in range(3):
            moved(before["net"], before["average"], step)
        rest = save_shards({"state_dict": before.state_dict()}, tmp_path, before)
        load_shards(tmp_path, after, [])
        after.load_state_dict(rest["state_dict"], strict=False)
        shown = [whole(pair["average"].module[0].weight).clone() for pair in (before, after)]
        assert torch.equal(shown[0], shown[1]) and shown[0].dtype == torch.bfloat16
        moved(after["net"], after["average"], 3)
        return {name: whole(value).clone() for name, value in after["average"].state_dict().items()}

    found, alone = first_of_two(spread, tmp_path / "meeting"), RunningAverage(net := model(), 0.999)
    for step in range(4):
        moved(net, alone, step)
    expected = alone.state_dict()
    assert found.keys() == expected.keys() and found["module.0.weight"].dtype == torch.float32
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert float(found["module.0.weight"][4, 2]) == pytest.approx(1 + 0.001 + 2e-3 + 3e-3, abs=1e-5)


@pytest.mark.parametrize("size", [(48, 48), (30, 70)], ids=str)
def test_frames_resized_on_a_gpu_differ_by_one_level_at_most(size: tuple[int, int]) -> None:
    from hlrp.data.decode import resize_frames, resized_in_floats

    frames = torch.randint(0, 256, (2, 3, 96, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    difference = resized_in_floats(frames, size).int() - torch.from_numpy(resize_frames(frames.numpy(), size)).int()
    assert int(difference.abs().max()) <= 1
