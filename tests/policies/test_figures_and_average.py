"""What a policy reports, left on its device, and the running average of its weights: PyTorch's own numbers."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hlrp.policies.average import RunningAverage
from hlrp.policies.figures import Figures


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


@pytest.mark.parametrize("size", [(48, 48), (30, 70)], ids=str)
def test_frames_resized_on_a_gpu_differ_by_one_level_at_most(size: tuple[int, int]) -> None:
    from hlrp.data.decode import resize_frames, resized_in_floats

    frames = torch.randint(0, 256, (2, 3, 96, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    difference = resized_in_floats(frames, size).int() - torch.from_numpy(resize_frames(frames.numpy(), size)).int()
    assert int(difference.abs().max()) <= 1
