"""The quantizer itself: shapes for any T and size, causality, masks, what the decoder may see."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from laq_toys import moving_square

from hlrp.config import LaqModel
from hlrp.errors import UserError
from hlrp.laq import LAQ, PRESETS, LAQConfig
from hlrp.laq.layers import Attention, PatchEmbedding
from hlrp.laq.losses import masked_mean, pixel_loss

Build = Callable[..., LAQ]


@pytest.mark.parametrize("quantizer", ["nsvq", "fsq", "vq"])
@pytest.mark.parametrize("frames", [2, 3, 4])
def test_any_number_of_frames_trains_and_labels(small: Build, quantizer: str, frames: int) -> None:
    laq = small(quantizer=quantizer, num_frames=frames, code_seq_len=3, codebook_size=9).train()
    video, _ = moving_square(5, frames)
    out = laq(video)
    assert out.recon.shape == (5, frames - 1, 3, 16, 24)
    assert out.codes.shape == (5, frames - 1, 3)
    (out.recon.square().mean() + out.quantizer_loss.mean()).backward()
    without = [n for n, p in laq.named_parameters() if p.grad is None or not bool(p.grad.any())]
    # The position of a code is added to every key alike; all else must learn.
    assert without == []

    codes = laq.encode(video)
    assert codes.dtype == torch.int64
    assert codes.shape == (5, frames - 1, 3)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 9
    assert laq.decode(video[:, 0], codes[:, 0]).shape == (5, 3, 16, 24)
    assert all(module.training for module in laq.modules()), "training goes on after a label was made"


def test_codes_are_the_same_for_bytes_and_fractions_and_in_training_mode(small: Build) -> None:
    laq, (video, _) = small(), moving_square(6, 3)
    as_bytes = laq.train().encode(video)
    assert torch.equal(as_bytes, laq.eval().encode(video.float() / 255))
    assert torch.equal(as_bytes, laq(video).codes)
    assert torch.equal(laq.codes_of(laq.encode_vectors(video)), as_bytes)


def test_a_pair_depends_on_no_later_frame(small: Build) -> None:
    laq, (video, _) = small().eval(), moving_square(4, 4)
    other = video.clone()
    other[:, 3] = 255 - other[:, 3]
    before, after = laq(video), laq(other)
    torch.testing.assert_close(before.vectors[:, :2], after.vectors[:, :2])
    torch.testing.assert_close(before.recon[:, :2], after.recon[:, :2])
    assert not torch.allclose(before.vectors[:, 2], after.vectors[:, 2])


def test_a_code_is_read_from_the_difference_of_two_frames_features(small: Build) -> None:
    laq, (video, _) = small(num_frames=3).eval(), moving_square(4, 3)
    seen: list[torch.Tensor] = []
    laq.encoder.narrow.register_forward_hook(lambda module, inputs, output: seen.append(output))
    vectors = laq.encode_vectors(video)
    (features,) = seen  # [B, T, N, D]
    change = (features[:, 1:] - features[:, :-1]).flatten(2)
    expected = (change @ laq.encoder.gather.weight.T).unflatten(-1, vectors.shape[2:])
    torch.testing.assert_close(vectors, expected.detach())


def test_attention_is_the_formula_head_by_head() -> None:
    attention, x, context = Attention(12, 3), torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    key, value = attention.key_value(context).split(12, dim=-1)
    query, heads = attention.query(x), []
    for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
        q, k = attention.query_norm(query[..., head]), attention.key_norm(key[..., head])
        heads.append((q @ k.transpose(1, 2) / 4**0.5).softmax(-1) @ value[..., head])
    torch.testing.assert_close(attention(x, context), attention.out(torch.cat(heads, -1)))


def test_a_patch_is_a_square_of_neighbouring_pixels() -> None:
    embedding = PatchEmbedding(1, 2, (2, 3), 8)
    frames = torch.zeros(1, 4, 6)
    before = embedding(frames)
    frames[0, 2:4, 4:6] = torch.rand(2, 2)
    changed = (embedding(frames) != before).any(-1)
    assert changed.tolist() == [False] * 5 + [True]


def test_what_is_masked_comes_out_without_a_gradient(small: Build) -> None:
    """Whatever is computed from it later, a loss on other targets too."""
    laq, (video, _) = small(quantizer="vq").train(), moving_square(3, 3)
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    out = laq(video, valid)
    assert not bool(out.quantizer_loss[~valid].any()) and bool((out.quantizer_loss[valid] > 0).all())
    for name in ("recon", "tokens"):
        kept = getattr(out, name)
        for rows, any_gradient in ((valid, True), (~valid, False)):
            total, weights = kept[rows].square().sum(), list(laq.parameters())
            found = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
            assert any(bool(g.any()) for g in found if g is not None) == any_gradient, name


def test_the_decoder_sees_its_own_frame_and_the_codes_alone(small: Build) -> None:
    laq, (video, _) = small().eval(), moving_square(4, 3)
    out = laq(video)
    for j in range(2):
        torch.testing.assert_close(out.recon[:, j].clamp(0, 1), laq.decode(video[:, j], out.codes[:, j]))
    other = (out.codes[:, 0] + 1) % laq.config.codebook_size
    assert not torch.allclose(laq.decode(video[:, 0], other), laq.decode(video[:, 0], out.codes[:, 0]))


@pytest.mark.parametrize("quantizer", ["nsvq", "fsq", "vq"])
def test_masked_pairs_carry_no_gradient(small: Build, quantizer: str) -> None:
    laq = small(quantizer=quantizer).train()
    video, _ = moving_square(3, 3)
    valid = torch.tensor([[True, True], [True, False], [False, False]])

    def gradients(masked_value: float) -> list[torch.Tensor]:
        frames = video.float() / 255
        frames[1, 2] = frames[2, 1:] = masked_value
        frames.requires_grad_(True)
        laq.zero_grad()
        torch.manual_seed(3)
        out = laq(frames, valid)
        (pixel_loss(out.recon, frames.detach(), valid, 0.1) + masked_mean(out.quantizer_loss, valid)).backward()
        assert frames.grad is not None
        assert bool(frames.grad[0].any())
        assert bool(frames.grad[1, :2].any())
        assert not bool(frames.grad[1, 2].any())
        assert not bool(frames.grad[2].any())
        return [p.grad.clone() for p in laq.parameters() if p.grad is not None]

    # Whatever lies past an episode's end, the update is the same; even numbers that are none do not spread.
    for first, second in zip(gradients(0.0), gradients(0.7), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-7)
    nothing = laq(video, torch.zeros(3, 2, dtype=torch.bool))
    loss = pixel_loss(nothing.recon, video.float() / 255, torch.zeros(3, 2, dtype=torch.bool), 0.1)
    assert float(loss.detach()) == 0
    loss.backward()


def test_loss_is_a_mean_over_what_is_valid_and_weighs_what_moves() -> None:
    frames = torch.zeros(1, 3, 1, 2, 2)
    frames[0, 1, 0, 0, 0] = 1.0
    frames[0, 2] = 0.5
    recon = torch.zeros(1, 2, 1, 2, 2)
    recon[0, 0, 0, 1, 1] = 2.0
    valid = torch.tensor([[True, False]])
    # One moving pixel with error 1, three resting ones of which one has error 2.
    assert float(pixel_loss(recon, frames, valid, 0.1)) == pytest.approx((1 + 0.1 * 4) / (1 + 3 * 0.1))
    assert float(pixel_loss(recon, frames, valid, 1.0)) == pytest.approx((1 + 4) / 4)


def test_loss_is_a_mean_over_channels() -> None:
    frames = torch.zeros(1, 2, 3, 1, 2)
    # The first pixel moves in one channel of three, and so counts whole.
    frames[0, 1, 1, 0, 0] = 1.0
    recon = torch.zeros(1, 1, 3, 1, 2)
    recon[0, 0, :, 0, 0] = torch.tensor([1.0, 1.0, 2.0])
    recon[0, 0, :, 0, 1] = torch.tensor([3.0, 0.0, 0.0])
    valid = torch.tensor([[True]])
    assert float(pixel_loss(recon, frames, valid, 0.1)) == pytest.approx(((1 + 0 + 4) / 3 + 0.1 * 9 / 3) / 1.1)
    assert float(pixel_loss(recon, frames, valid, 1.0)) == pytest.approx((5 / 3 + 3) / 2)


def test_an_untrained_decoder_copies_its_frame() -> None:
    laq = LAQ(LAQConfig.preset("tiny", image_size=24)).eval()
    video, _ = moving_square(2, 2, (24, 24))
    torch.testing.assert_close(laq(video).recon[:, 0], video[:, 0].float() / 255)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(2, 2, 3, 16, 16), r"\(2, 2, 3, 16, 16\).*3, 16, 24"),
        (torch.zeros(2, 3, 16, 24), r"\(2, 3, 16, 24\)"),
        (torch.zeros(2, 2, 3, 16, 24, dtype=torch.int64), "int64"),
    ],
)
def test_frames_that_do_not_fit_are_refused(small: Build, frames: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small().encode(frames)


def test_presets_follow_their_sources() -> None:
    base, hlrp = LAQConfig.preset("base"), LAQConfig.preset("hlrp")
    assert (base.codebook_size, base.code_seq_len, base.grid, base.dim) == (8, 4, (8, 8), 1024)
    assert (hlrp.codebook_size, hlrp.code_seq_len) == (2048, 1)
    for name in PRESETS:
        with torch.device("meta"):
            LAQ(LAQConfig.preset(name))


def test_configuration_comes_from_the_run_and_names_what_does_not_fit() -> None:
    model = LaqModel(kind="laq", preset="tiny", quantizer="fsq", codebook_size=64, image_size=48, patch_size=8)
    config = LAQConfig.from_model(model, num_frames=3, offset_seconds=0.4)
    assert config.quantizer == "fsq"
    assert (config.codebook_size, config.code_seq_len, config.grid) == (64, 4, (6, 6))
    assert (config.num_frames, config.offset_seconds) == (3, 0.4)
    with pytest.raises(UserError, match="be built: patch_size 12 does not divide image_size 100x96") as refusal:
        LAQConfig.preset("tiny", image_size=(100, 96))
    assert refusal.value.fix is not None
    assert refusal.value.fix.endswith("'tiny' has image_size [96, 96], patch_size 12, dim 128, heads 4")
    with pytest.raises(UserError, match="tiny"):
        LAQConfig.preset("tinny")


def test_configuration_alone_imports_no_torch() -> None:
    code = "import sys; from hlrp.laq import LAQConfig; LAQConfig.preset('tiny'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
