"""Computing stacked layers again in the backward pass, which changes no number."""

import pytest
import torch
from torch import nn

from hlrp.config import LightningTrainerSection
from hlrp.errors import UserError
from trainers.lightning.layers import check_layers, recompute_layers, stacks


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.drop, self.narrow = nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 3)
        self.calls = 0

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        self.calls += 1
        return x + scale * self.narrow(self.drop(self.wide(x)).tanh())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.heads = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
        self.blocks = nn.ModuleList([nn.ModuleList([Layer(), nn.Linear(3, 3)])])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, scale=0.5)
        block, out = self.blocks[0]
        return torch.cat([head(out(block(x))) for head in self.heads])


def _gradients(net: Net) -> list[torch.Tensor]:
    torch.manual_seed(1)
    net.zero_grad()
    net(torch.randn(4, 3)).square().sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def test_layers_are_entries_of_a_list_with_several_parts() -> None:
    net = Net()
    assert stacks(net) == [[*net.layers], [net.blocks[0][0]]]


def test_layers_are_computed_twice_with_the_same_gradients() -> None:
    torch.manual_seed(0)
    net = Net()
    kept = _gradients(net)
    assert [layer.calls for layer in net.layers] == [1, 1]
    recompute_layers(net)
    again = _gradients(net)
    assert [layer.calls for layer in net.layers] == [3, 3]
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    net.eval()
    net(torch.randn(4, 3))
    assert [layer.calls for layer in net.layers] == [4, 4]


def test_what_a_module_is_not_made_for_is_refused() -> None:
    again, spread = LightningTrainerSection(activation_checkpointing=True), LightningTrainerSection(strategy="fsdp")
    check_layers(Net(), again)
    check_layers(nn.Sequential(), again)  # a policy that is not made yet
    with pytest.raises(UserError, match="no stacked layers"):
        check_layers(nn.Sequential(nn.Linear(2, 2)), again)
    net = Net()
    net.scale = nn.Parameter(torch.ones(()))
    check_layers(net, again)
    with pytest.raises(UserError, match="scale is a single number"):
        check_layers(net, spread)
