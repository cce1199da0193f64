"""The SmolVLM backend: inputs equal to the processor's, hidden states equal to the model's, losses, modes, saving."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from hlrp.errors import UserError
from hlrp.foundation.backbones import load_backbone, make_tiny_backbone
from hlrp.foundation.backends import BackendMode, FoundationBatch, VLABackend
from hlrp.foundation.backends.smol_inputs import Patches, SmolPixels
from hlrp.foundation.backends.smol_latent_head_backend import SmolLatentHeadBackend
from hlrp.foundation.config import BackendConfig
from hlrp.latents import CodeSpec

CODES, POSITIONS, WIDTH = 5, 4, 3
TEXTS = ["press the button", "close", "reach to the goal"]


def config(**changes: Any) -> BackendConfig:
    spec = CodeSpec(
        codebook_size=CODES,
        code_seq_len=2,
        num_frames=3,
        offset_seconds=0.1,
        laq_sha256="0" * 64,
        vector_dim=WIDTH,
    )
    values: dict[str, Any] = {"backend": "smol_latent_head", "spec": spec, "cameras": ("top",)}
    return BackendConfig(**(values | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "tiny"
    make_tiny_backbone(path, "smol_latent_head")
    return path


def make(folder: Path, **changes: Any) -> SmolLatentHeadBackend:
    torch.manual_seed(0)
    return SmolLatentHeadBackend.from_backbone(config(**changes), folder).eval()


@pytest.fixture(scope="module")
def backend(folder: Path) -> SmolLatentHeadBackend:
    return make(folder)


def frames(count: int = 3, size: tuple[int, int] = (96, 96), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)


def observations(**changes: Any) -> FoundationBatch:
    return replace(FoundationBatch(images={"top": frames()}, instruction=TEXTS), **changes)


def labels(seed: int = 0) -> Tensor:
    return torch.randint(0, CODES, (3, POSITIONS), generator=torch.Generator().manual_seed(seed))


# ---- inputs


@pytest.mark.parametrize("resample", [1, 3], ids=["lanczos", "bicubic"])
@pytest.mark.parametrize("size", [(96, 96), (64, 64), (128, 128), (120, 160), (200, 90)], ids=str)
def test_pixels_are_those_of_the_processor_within_one_level(folder: Path, size: tuple[int, int], resample: int) -> None:
    processor = load_backbone(folder, weights=False)[1].image_processor
    processor.resample = resample
    rows, columns = np.mgrid[: size[0], : size[1]]
    smooth = np.stack([rows * 255 / size[0], columns * 255 / size[1], (rows // 8 + columns // 8) % 2 * 255])
    images = torch.cat([frames(2, size), torch.from_numpy(smooth.astype(np.uint8))[None]])
    expected = processor([[image.numpy()] for image in images], return_tensors="pt").pixel_values[:, 0]
    found = SmolPixels(processor)(images)
    # Pillow's weights are fixed-point numbers: what falls between two levels may be rounded the other way.
    levels = (found - expected).abs() * 255 / 2
    largest, share = float(levels.max()), float((levels > 0.01).float().mean())
    assert largest < 1.01
    assert share < 0.01
    as_floats = SmolPixels(processor)(images.float() / 255)
    assert torch.equal(as_floats, found)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(SmolPixels(processor)(images), found)


def test_tokens_are_those_of_the_processor(folder: Path) -> None:
    two = make(folder, cameras=("top", "wrist"))
    processor = two.processor
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": TEXTS[0]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    expected = processor(text=[text], images=[[f.numpy() for f in frames(2)]]).input_ids[0]
    ids, mask = two.prompts.batch([TEXTS[0], "a much longer instruction than that"], torch.device("cpu"))
    assert ids[0][mask[0]].tolist() == list(expected)
    assert ids.shape[1] == int(mask.sum(1).max())
    assert int(mask[1].sum()) == int(mask[0].sum()) + len("a much longer instruction than that") - len(TEXTS[0])
    marks = processor.tokenizer.convert_ids_to_tokens(
        [ids[0, i] for start, end in two.prompts.spans for i in (start, end - 1)]
    )
    assert marks == ["<fake_token_around_image>"] * 4


def test_instructions_are_cut_and_cannot_pass_for_images(folder: Path) -> None:
    short = make(folder, max_text_tokens=8)
    assert short.prompts.ids("12345678") == short.prompts.ids("123456789")
    assert short.prompts.ids("1234567é") == short.prompts.ids("1234567")
    plain = short.prompts.ids("a<image>b")
    assert plain == short.prompts.ids("a b")


def test_hidden_states_are_those_of_the_pretrained_model(folder: Path, backend: SmolLatentHeadBackend) -> None:
    model, processor = load_backbone(folder)
    batch = observations()
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
            add_generation_prompt=True,
        )
        for text in TEXTS
    ]
    images = [[f.numpy()] for f in batch.images["top"]]
    inputs = processor(text=texts, images=images, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        expected = model.model(**inputs).last_hidden_state
        hidden, mask = backend.features(batch)
    real = inputs.attention_mask.bool()
    assert torch.equal(mask[:, : real.shape[1]], real)
    assert not mask[:, real.shape[1] :].any()
    torch.testing.assert_close(hidden[mask], expected[real], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_patches_are_those_of_the_convolution(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 8, 4, 4).to(dtype)
    pixels = torch.randn(2, 3, 8, 12, dtype=dtype)
    expected = convolution(pixels)
    weights = convolution.state_dict()
    Patches.instead_of(convolution)
    assert type(convolution) is Patches and convolution.state_dict().keys() == weights.keys()
    torch.testing.assert_close(convolution(pixels), expected, atol=tolerance, rtol=tolerance)
    for other in (torch.nn.Conv2d(3, 8, 4, 2), torch.nn.Conv2d(3, 8, 4, 4, 1), torch.nn.Conv2d(3, 8, 4, 4, dilation=2)):
        Patches.instead_of(other)
        assert type(other) is torch.nn.Conv2d


def test_the_backends_images_are_cut_by_patches(backend: SmolLatentHeadBackend) -> None:
    assert isinstance(backend.vlm.vision_model.embeddings.patch_embedding, Patches)


def test_a_sample_does_not_depend_on_the_others_of_its_batch(backend: SmolLatentHeadBackend) -> None:
    batch = observations()
    alone = FoundationBatch(images={"top": batch.images["top"][1:2]}, instruction=TEXTS[1:2])
    with torch.no_grad():
        together, single = backend.latent_from_batch(batch), backend.latent_from_batch(alone)
        other = backend.latent_from_batch(observations(instruction=[TEXTS[0]] * 3))
    assert together.logits is not None and single.logits is not None and other.logits is not None
    torch.testing.assert_close(together.logits[1:2], single.logits, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together.logits[1], other.logits[1], atol=1e-3)


def test_a_missing_camera_is_seen_by_nobody(folder: Path) -> None:
    two = make(folder, cameras=("top", "wrist"))
    present = {"wrist": torch.tensor([True, False, True])}
    first = observations(images={"top": frames(), "wrist": frames(seed=1)}, image_masks=present)
    second = replace(first, images={"top": frames(), "wrist": frames(seed=2)})
    with torch.no_grad():
        a, b = two.latent_from_batch(first).logits, two.latent_from_batch(second).logits
    assert a is not None and b is not None
    assert torch.equal(a[1], b[1])
    assert not torch.allclose(a[0], b[0], atol=1e-4)
    # The tokens that remain are where they would be without the camera.
    hidden, mask = two.features(first)
    one, one_mask = make(folder).features(observations())
    torch.testing.assert_close(hidden[1][mask[1]], one[1][one_mask[1]], atol=2e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="wrist is missing from the batch; the model sees top, wrist"):
        two.features(observations())


@pytest.mark.parametrize("state_dim", [None, 4])
def test_padding_is_seen_by_nobody_with_and_without_a_mask(folder: Path, state_dim: int | None) -> None:
    backend = make(folder, state_dim=state_dim)
    batch = observations(state=None if state_dim is None else torch.randn(3, state_dim))
    caches = DynamicCache(), DynamicCache()
    with torch.no_grad():
        # A camera that one sample lacks: attention is masked, for the other samples too.
        partly = replace(batch, image_masks={"top": torch.tensor([True, False, True])})
        masked, mask = backend.features(partly, cache=caches[0])
        bare, there = backend.features(batch, cache=caches[1])
    others = there & torch.tensor([True, False, True])[:, None]
    assert torch.equal(mask & others, others) and not there.all()
    torch.testing.assert_close(bare[others], masked[others], atol=1e-5, rtol=1e-5)
    for one, other in zip(caches[0].layers, caches[1].layers, strict=True):
        for a, b in ((one.keys, other.keys), (one.values, other.values)):
            torch.testing.assert_close(a.transpose(1, 2)[others], b.transpose(1, 2)[others], atol=1e-5, rtol=1e-5)


def test_the_state_is_one_more_token(folder: Path) -> None:
    with_state = make(folder, state_dim=4)
    state = torch.zeros(3, 4)
    hidden, mask = with_state.features(observations(state=state))
    _, without = make(folder).features(observations())
    assert hidden.shape[1] == without.shape[1] + 1
    assert not without.all()
    # Behind the sample's own text, before the padding.
    assert torch.equal(mask, torch.arange(mask.shape[1]) < without.sum(1, keepdim=True) + 1)
    moved, _ = with_state.features(observations(state=state + 1))
    changed = ((moved - hidden).abs().amax(-1) > 1e-4) & mask
    assert torch.equal(changed, torch.arange(mask.shape[1]) == without.sum(1, keepdim=True))
    logits = with_state.latent_from_batch(observations(state=state)).logits
    other = with_state.latent_from_batch(observations(state=state + 1)).logits
    assert logits is not None and other is not None
    assert not torch.allclose(logits, other, atol=1e-4)
    with pytest.raises(ValueError, match="state: 4 numbers"):
        with_state.features(observations())


# ---- the parts of the model


def test_parts_hold_every_parameter_once_and_none_is_idle(folder: Path) -> None:
    backend = make(folder, state_dim=4)
    assert isinstance(backend, VLABackend)
    held = [id(p) for name in ("vision", "language", "head") for part in backend.part(name) for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in backend.parameters())
    batch = observations(state=torch.ones(3, 4), target_codes=labels())
    backend.loss_from_batch(batch).loss.backward()
    assert [name for name, p in backend.named_parameters() if p.grad is None] == []


def test_layers_keeps_the_first_ones(folder: Path, tmp_path: Path) -> None:
    short = make(folder, layers=2)
    assert len(short.vlm.text_model.layers) == 2
    short.save_backbone(tmp_path)
    again = SmolLatentHeadBackend.from_backbone(config(layers=2), tmp_path, weights=False)
    again.load_state_dict(short.state_dict(), strict=True)
    with pytest.raises(UserError, match="9 language layers are asked for, the backbone has 4"):
        make(folder, layers=9)


def test_files_of_different_backbones_are_refused(folder: Path) -> None:
    model, processor = load_backbone(folder)
    processor.image_seq_len = 25
    with pytest.raises(UserError, match="tokens per image: processor 25, model 16"):
        SmolLatentHeadBackend(config(), model, processor).setup()
    model, processor = load_backbone(folder)
    processor.tokenizer.add_tokens(["<one more>"])
    with pytest.raises(UserError, match="token ids: tokenizer 264, embeddings of the model 263"):
        SmolLatentHeadBackend(config(), model, processor).setup()


def test_what_is_saved_rebuilds_the_same_model(folder: Path, tmp_path: Path) -> None:
    for mode in BackendMode:
        backend = make(folder, mode=mode, state_dim=4)
        if mode is not BackendMode.CODES:
            backend.set_target_statistics(torch.ones(WIDTH), torch.full((WIDTH,), 2.0))
        backend.save_backbone(tmp_path / mode)
        assert not list((tmp_path / mode).glob("*.safetensors"))
        again = SmolLatentHeadBackend.from_backbone(backend.config, tmp_path / mode, weights=False)
        again.load_state_dict(backend.state_dict(), strict=True)
        batch = observations(state=torch.ones(3, 4))
        with torch.no_grad():
            first, second = backend.latent_from_batch(batch), again.eval().latent_from_batch(batch)
        for a, b in ((first.codes, second.codes), (first.logits, second.logits), (first.vectors, second.vectors)):
            assert (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


# ---- losses and predictions


def test_codes_loss_is_the_mean_over_what_is_supervised(backend: SmolLatentHeadBackend) -> None:
    codes, mask = labels(), torch.rand(3, POSITIONS, generator=torch.Generator().manual_seed(1)) > 0.5
    mask[2] = False
    wild = torch.where(mask, codes, torch.tensor(-100))
    out = backend.loss_from_batch(observations(target_codes=wild, target_mask=mask))
    assert out.logits is not None and out.logits.shape == (3, POSITIONS, CODES)
    expected = -out.logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(out.loss.detach(), expected[mask].mean())
    assert out.supervised.tolist() == [True, True, False]
    nothing = backend.loss_from_batch(observations(target_codes=wild, target_mask=torch.zeros_like(mask)))
    assert float(nothing.loss.detach()) == 0
    nothing.loss.backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in backend.parameters() if p.grad is not None)
    backend.zero_grad(set_to_none=True)
    with pytest.raises(ValueError, match="no labels"):
        backend.loss_from_batch(observations())
    with pytest.raises(ValueError, match="outside"):
        backend.loss_from_batch(observations(target_codes=wild))


def test_sampling_follows_temperature_and_generator(backend: SmolLatentHeadBackend) -> None:
    def sample(temperature: float, seed: int) -> Tensor:
        with torch.no_grad():
            out = backend.latent_from_batch(
                observations(), temperature=temperature, generator=torch.Generator().manual_seed(seed)
            )
        assert out.codes is not None
        assert out.codes.shape == (3, POSITIONS)
        assert int(out.codes.min()) >= 0 and int(out.codes.max()) < CODES
        return out.codes

    assert torch.equal(sample(0.0, 0), sample(0.0, 1))
    assert torch.equal(sample(2.0, 0), sample(2.0, 0))
    assert any(not torch.equal(sample(2.0, 0), sample(2.0, seed)) for seed in range(1, 4))
    assert torch.equal(sample(1e-4, 5), sample(0.0, 0))


@pytest.mark.parametrize("mode", [BackendMode.VECTORS, BackendMode.FLOW])
def test_continuous_modes_need_statistics_and_ignore_what_is_masked(folder: Path, mode: BackendMode) -> None:
    backend = make(folder, mode=mode)
    vectors = torch.randn(3, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(0))
    batch = observations(target_vectors=vectors)
    for call in (backend.loss_from_batch, backend.latent_from_batch):
        with pytest.raises(ValueError, match="set_target_statistics"):
            call(batch)
    with pytest.raises(ValueError, match="mean: 3 finite numbers"):
        backend.set_target_statistics(torch.ones(2), torch.ones(2))
    backend.set_target_statistics(torch.tensor([5.0, 0.0, -1.0]), torch.tensor([10.0, 0.0, 0.1]))
    mask = torch.ones(3, POSITIONS, dtype=torch.bool)
    mask[1, 2] = False
    dirty = vectors.clone()
    dirty[1, 2] = torch.nan
    losses = []
    for values in (vectors, dirty):
        torch.manual_seed(0)
        out = backend.loss_from_batch(replace(batch, target_vectors=values, target_mask=mask))
        backend.zero_grad(set_to_none=True)
        out.loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in backend.parameters() if p.grad is not None)
        losses.append(float(out.loss.detach()))
        assert out.logits is None
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="target_vectors"):
        backend.loss_from_batch(observations(target_codes=labels()))
    first, second = backend.latent_from_batch(batch).vectors, backend.latent_from_batch(batch).vectors
    assert first is not None and second is not None
    assert first.shape == (3, POSITIONS, WIDTH)
    assert torch.equal(first, second)
    # The second latent never changes: it is predicted about its mean; units of the first are those of the labels.
    assert float(first[..., 1].abs().max()) < 10
    assert float((first[..., 2] + 1).abs().max()) < 1


@pytest.mark.parametrize("mode", [BackendMode.VECTORS, BackendMode.FLOW])
def test_targets_are_standardised_before_the_loss(
    folder: Path, mode: BackendMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make(folder, mode=mode)
    mean, std = torch.tensor([5.0, 0.0, -1.0]), torch.tensor([10.0, 0.0, 0.5])
    backend.set_target_statistics(mean, std)
    # In units of the statistics: 1 above, 2 below, 3 above; a latent that never changes keeps its own unit.
    vectors = torch.tensor([15.0, -2.0, 0.5]).expand(3, POSITIONS, WIDTH)
    expected = torch.tensor([1.0, -2.0, 3.0]).expand(3, POSITIONS, WIDTH)
    batch = observations(target_vectors=vectors)
    if backend.flow is None:
        with torch.no_grad():
            read = backend.head(*backend.features(batch)).float()
            loss = backend.loss_from_batch(batch).loss
            predicted = backend.latent_from_batch(batch).vectors
        torch.testing.assert_close(loss, (read - expected).square().mean())
        torch.testing.assert_close(predicted, read * torch.tensor([10.0, 1.0, 0.5]) + mean)
        return
    seen = []
    monkeypatch.setattr(backend.flow, "losses", lambda target, read: seen.append(target) or target.square().mean(-1))
    loss = backend.loss_from_batch(batch).loss
    torch.testing.assert_close(seen[0], expected)
    assert float(loss) == pytest.approx((1 + 4 + 9) / 3)


def test_bfloat16_autocast_gives_a_float32_loss(folder: Path) -> None:
    for mode in BackendMode:
        backend = make(folder, mode=mode, state_dim=2)
        if mode is not BackendMode.CODES:
            backend.set_target_statistics(torch.zeros(WIDTH), torch.ones(WIDTH))
        batch = observations(
            state=torch.ones(3, 2), target_codes=labels(), target_vectors=torch.zeros(3, POSITIONS, WIDTH)
        )
        with torch.autocast("cpu", torch.bfloat16):
            out = backend.loss_from_batch(batch)
            predicted = backend.latent_from_batch(batch)
        assert out.loss.dtype == torch.float32
        out.loss.backward()
        assert predicted.vectors is None or predicted.vectors.dtype == torch.float32


def scenes(count: int, seed: int) -> FoundationBatch:
    """A bright square left or right, and two instructions; the first code tells the side, the second both together."""
    generator = torch.Generator().manual_seed(seed)
    side, task = (torch.randint(0, 2, (count,), generator=generator) for _ in range(2))
    images = torch.randint(0, 60, (count, 3, 96, 96), generator=generator, dtype=torch.uint8)
    tops = torch.randint(10, 60, (count,), generator=generator).tolist()
    for i, top in enumerate(tops):
        left = 12 + 48 * int(side[i])
        images[i, :, top : top + 24, left : left + 24] = 230
    codes = torch.stack([side, side ^ task, task, side * 2 + task], dim=1)
    texts = [("open it", "close it")[int(t)] for t in task]
    return FoundationBatch(images={"top": images}, instruction=texts, target_codes=codes)


def test_it_learns_from_image_and_instruction_together(folder: Path) -> None:
    backend = make(folder).train()
    optimizer = torch.optim.AdamW(backend.parameters(), lr=1e-3)
    torch.manual_seed(0)
    for step in range(150):
        out = backend.loss_from_batch(scenes(16, step))
        optimizer.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(backend.parameters(), 1.0)
        optimizer.step()
    unseen = scenes(64, 10_000)
    with torch.no_grad():
        right = backend.eval().latent_from_batch(unseen).codes == unseen.target_codes
    assert float(right.float().mean()) > 0.9
