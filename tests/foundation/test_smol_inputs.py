"""The SmolVLM backend's inputs: equal to the processor's, hidden states equal to the model's, masks, state."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_toys import TEXTS, config_of, frames, make_backend, observations
from transformers import DynamicCache

from hlrp.foundation.backbones import load_backbone, make_tiny_backbone
from hlrp.foundation.backends import FoundationBatch
from hlrp.foundation.backends.smol_inputs import Patches, SmolPixels
from hlrp.foundation.backends.smol_latent_head_backend import SmolLatentHeadBackend
from hlrp.foundation.config import BackendConfig


def config(**changes: Any) -> BackendConfig:
    return config_of("smol_latent_head", **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "tiny"
    make_tiny_backbone(path, "smol_latent_head")
    return path


def make(folder: Path, **changes: Any) -> Any:
    return make_backend("smol_latent_head", folder, **changes)


@pytest.fixture(scope="module")
def backend(folder: Path) -> SmolLatentHeadBackend:
    return make(folder)


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
