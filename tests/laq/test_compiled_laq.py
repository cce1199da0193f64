"""The quantizer under torch.compile: no graph breaks, the same numbers, and blocks that are compiled once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from hlrp.compiled import blocks_of, compile_blocks
from hlrp.errors import UserError
from hlrp.laq import LAQ

# What finds graph breaks, without the compiler's minutes; it computes with the same kernels.
CHEAP = {"fullgraph": True, "backend": "eager"}


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("quantizer", ["nsvq", pytest.param("fsq", marks=pytest.mark.slow)])
def test_a_quantizer_is_one_graph(small: Callable[..., LAQ], quantizer: str) -> None:
    laq = small(quantizer=quantizer).eval()
    frames, valid = (
        torch.randint(256, (2, 3, 3, 16, 24), dtype=torch.uint8),
        torch.tensor([[True, True], [True, False]]),
    )
    plain = laq(frames, valid)
    compiled = torch.compile(laq, **CHEAP)(frames, valid)
    assert torch.equal(compiled.codes, plain.codes) and torch.equal(compiled.recon, plain.recon)
    assert counters["stats"]["unique_graphs"] == 1


def test_layers_are_compiled_in_place_and_equal_ones_once(small: Callable[..., LAQ], tmp_path: Path) -> None:
    laq = small(quantizer="vq", spatial_layers=2, decoder_layers=2)
    frames = torch.randint(256, (2, 3, 3, 16, 24), dtype=torch.uint8)
    plain, names = laq(frames), list(laq.state_dict())
    plain.recon.mean().backward()
    expected = {name: p.grad.clone() for name, p in laq.named_parameters() if p.grad is not None}
    laq.zero_grad()
    assert compile_blocks(laq, **CHEAP) == len(blocks_of(laq)) == 5
    found = laq(frames)
    found.recon.mean().backward()
    # Spatial, temporal and decoding layers.
    assert counters["stats"]["unique_graphs"] == 3
    assert torch.equal(found.recon, plain.recon)
    for name, parameter in laq.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-7)
    assert list(laq.state_dict()) == names
    laq.save(tmp_path)
    loaded = LAQ.from_checkpoint(tmp_path)
    assert torch.equal(loaded.encode(frames), laq.encode(frames))
    assert all(block._compiled_call_impl is None for block in blocks_of(loaded))


def test_a_machine_without_a_compiler_is_told_so(small: Callable[..., LAQ], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"(?s)needs a C\+\+ compiler.*trainer\.compile"):
        compile_blocks(small())


@pytest.mark.slow
def test_the_compiler_gives_the_same_losses(small: Callable[..., LAQ]) -> None:
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        laq = small(spatial_layers=2)
        if compiled:
            compile_blocks(laq, fullgraph=True)
        optimizer = torch.optim.AdamW(laq.parameters(), lr=1e-3)
        frames = torch.rand(4, 2, 3, 16, 24)
        losses.append([])
        for _ in range(10):
            loss = (laq(frames).recon - frames[:, 1:]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < 0.9 * losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
