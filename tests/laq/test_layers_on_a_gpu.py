"""What a GPU computes in other ways: written-out attention and products of whole tiles give what the plain ones do."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hlrp.laq.layers import Attention, FeedForward, short_attention


def value_and_gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [output, *torch.autograd.grad(output.square().sum(), inputs)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_short_attention_is_attention(tokens: int, causal: bool) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(5, 3, tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    found = value_and_gradients(short_attention(*inputs, causal=causal), inputs)
    expected = value_and_gradients(F.scaled_dot_product_attention(*inputs, is_causal=causal), inputs)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [128, 96])  # 341 and 256 hidden numbers
def test_whole_tiles_give_the_same(dim: int) -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(dim).double(), torch.randn(2, 5, dim, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    found, expected = value_and_gradients(layer._in_whole_tiles(x), inputs), value_and_gradients(layer(x), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class _OnGPU(torch.Tensor):
    """Says that it lies on a GPU."""

    is_cuda = True


def test_on_a_gpu_rows_are_whole_tiles_and_short_sequences_are_written_out() -> None:
    widths: list[int] = []
    linear, attend = F.linear, F.scaled_dot_product_attention

    def note(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        widths.extend(weight.shape)
        return linear(x, weight, *rest)

    with patch.object(F, "linear", note):
        FeedForward(1024)(torch.zeros(1, 2, 1024).as_subclass(_OnGPU))
    assert set(widths) == {1024, 2752}

    with patch.object(F, "scaled_dot_product_attention", side_effect=attend) as kernel:
        layer = Attention(16, 2, causal=True)
        layer(torch.zeros(1, 4, 16).as_subclass(_OnGPU))
        assert kernel.call_count == 0
        layer(torch.zeros(1, 5, 16).as_subclass(_OnGPU))
        layer(torch.zeros(1, 4, 16))
        assert kernel.call_count == 2
