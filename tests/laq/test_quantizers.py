"""The quantizers: their rules, where they start, and what replacement does."""

import pytest
import torch

from hlrp.laq.quantizers import NSVQ, Quantizer, fsq_levels, make_quantizer


@pytest.mark.parametrize("name", ["nsvq", "fsq", "vq"])
def test_codes_name_the_vectors_that_the_decoder_gets(name: str) -> None:
    quantizer = make_quantizer(name, 8, 16, 4).eval()
    vectors = torch.randn(10, 4, 8)
    out = quantizer(vectors)
    assert out.codes.dtype == torch.int64
    assert out.codes.shape == (10, 4)
    torch.testing.assert_close(quantizer.lookup(out.codes), out.vectors)


@pytest.mark.parametrize("name", ["nsvq", "fsq", "vq"])
@pytest.mark.parametrize("training", [True, False])
def test_forward_changes_no_weight_and_no_buffer(name: str, training: bool) -> None:
    quantizer = make_quantizer(name, 8, 16, 4).train(training)
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    for _ in range(3):
        quantizer(torch.randn(5, 4, 8))
    assert all(torch.equal(before[k], v) for k, v in quantizer.state_dict().items())


@pytest.mark.parametrize("name", ["nsvq", "fsq", "vq"])
def test_positions_and_channels_do_not_mix(name: str) -> None:
    quantizer = make_quantizer(name, 8, 16, 4).eval()
    vectors = torch.randn(6, 4, 8)
    before = quantizer(vectors)
    for position in range(4):
        other = torch.randn(6, 4, 8)
        other[:, position] = vectors[:, position]
        after = quantizer(other)
        assert torch.equal(before.codes[:, position], after.codes[:, position])
        torch.testing.assert_close(before.vectors[:, position], after.vectors[:, position])


def test_nsvq_replaces_the_error_by_noise_of_its_length() -> None:
    quantizer = NSVQ(8, 16, 2).train()
    vectors = torch.randn(200, 2, 8, requires_grad=True)
    out = quantizer(vectors)
    error = (vectors - quantizer.lookup(out.codes)).norm(dim=-1)
    torch.testing.assert_close((out.vectors - vectors).norm(dim=-1), error, rtol=1e-4, atol=1e-5)
    nearest = torch.cdist(vectors.transpose(0, 1), quantizer.codes).argmin(-1).T
    assert torch.equal(out.codes, nearest)
    out.vectors.sum().backward()
    assert vectors.grad is not None
    assert bool(quantizer.codes.grad.any())
    assert not bool(out.loss.any())


def test_nsvq_has_finite_gradients_on_a_code() -> None:
    quantizer = NSVQ(4, 4, 1).train()
    vectors = quantizer.codes.detach().transpose(0, 1).clone().requires_grad_(True)
    quantizer(vectors).vectors.sum().backward()
    assert bool(torch.isfinite(vectors.grad).all())
    assert bool(torch.isfinite(quantizer.codes.grad).all())


@pytest.mark.parametrize("name", ["nsvq", "vq"])
def test_unused_codes_move_to_used_ones_and_come_to_life(name: str) -> None:
    quantizer: Quantizer = make_quantizer(name, 4, 8, 1).eval()
    clusters = torch.randn(2, 4) * 3
    vectors = (clusters[torch.arange(400) % 2] + 0.3 * torch.randn(400, 4))[:, None]
    codebook = quantizer.state_dict()["codes" if name == "nsvq" else "quantize._codebook.embed"].view(8, 4)
    codebook.copy_(torch.cat([clusters, torch.full((6, 4), 50.0)]))
    for _ in range(6):
        counts = torch.bincount(quantizer(vectors).codes.flatten(), minlength=8)
        moved = quantizer.replace(counts[None], 0.1, vectors)[0]
        assert torch.equal(moved, counts < 0.1 * counts.sum() / 8)
    used = quantizer(vectors).codes.unique()
    assert len(used) >= 7


def test_vq_pulls_codes_to_vectors_and_less_so_vectors_to_codes() -> None:
    quantizer = make_quantizer("vq", 4, 8, 2).train()
    vectors = torch.randn(5, 2, 4, requires_grad=True)
    out = quantizer(vectors)
    chosen = quantizer.lookup(out.codes).detach()
    square = (chosen - vectors.detach()).square().mean((1, 2))
    torch.testing.assert_close(out.loss.detach(), 1.005 * square)
    codebook = quantizer.quantize._codebook.embed
    to_vectors, to_codes = torch.autograd.grad(out.loss.sum(), [vectors, codebook])
    torch.testing.assert_close(to_vectors, 0.005 * 2 * (vectors - chosen).detach() / 8)
    expected = torch.zeros_like(to_codes).view(2, 8, 4)
    for position in range(2):
        expected[position].index_add_(0, out.codes[:, position], 2 * (chosen - vectors.detach())[:, position] / 8)
    torch.testing.assert_close(to_codes.view(2, 8, 4), expected)


@pytest.mark.parametrize("name", ["nsvq", "vq"])
def test_each_position_has_a_codebook_among_its_own_vectors(name: str) -> None:
    quantizer = make_quantizer(name, 6, 16, 3).eval()
    vectors = torch.randn(100, 3, 6) + torch.tensor([-100.0, 0.0, 100.0])[:, None]
    quantizer.initialise(vectors)
    places = quantizer.lookup(torch.arange(16)[:, None].expand(-1, 3)).detach().mean((0, 2))
    assert places.tolist() == pytest.approx([-100, 0, 100], abs=2)
    # What an even use is, each position says for itself: the second one was used a hundred times as often.
    counts = torch.tensor([[5] * 15 + [0], [500] * 15 + [0], [5] * 16])
    moved = quantizer.replace(counts, 0.1, vectors)
    assert moved.nonzero().tolist() == [[0, 15], [1, 15]]


def test_replacement_leaves_used_codes_alone() -> None:
    quantizer = NSVQ(4, 8, 1)
    before = quantizer.codes.detach().clone()
    assert not bool(quantizer.replace(torch.full((1, 8), 5), 0.1, torch.ones(3, 1, 4)).any())
    assert torch.equal(before, quantizer.codes)
    quantizer.replace(torch.tensor([[5, 5, 5, 5, 5, 5, 0, 0]]), 0.1, torch.ones(3, 1, 4))
    assert torch.equal(before[:, :6], quantizer.codes[:, :6])
    assert torch.equal(quantizer.codes[0, 6:].detach(), torch.ones(2, 4))


@pytest.mark.parametrize("name", ["nsvq", "vq"])
@pytest.mark.parametrize("count", [5, 500])
def test_a_codebook_starts_among_the_vectors(name: str, count: int) -> None:
    quantizer = make_quantizer(name, 6, 16, 1).eval()
    vectors = 40 + torch.randn(count, 6)
    quantizer.initialise(vectors[:, None])
    out = quantizer(vectors[:, None])
    assert len(out.codes.unique()) >= min(count, 12)
    assert float((out.vectors[:, 0] - vectors).detach().norm(dim=-1).mean()) < 4


@pytest.mark.parametrize(
    ("size", "levels"), [(2, [2]), (8, [8]), (16, [4, 4]), (64, [8, 8]), (2048, [8, 8, 8, 4]), (17, [17])]
)
def test_fsq_levels_make_the_asked_size(size: int, levels: list[int]) -> None:
    assert fsq_levels(size) == levels
    quantizer = make_quantizer("fsq", 8, size, 1).eval()
    codes = quantizer(torch.randn(4000, 1, 8) * 3).codes
    assert len(codes.unique()) >= 0.7 * min(size, 500)
    assert int(codes.max()) < size
