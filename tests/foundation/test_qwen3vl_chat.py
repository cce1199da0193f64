"""The Qwen3-VL backend: inputs equal to the processor's, supervision, constrained decoding, saving, learning."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_toys import CODES, POSITIONS, TEXTS, config_of, frames, labels, make_backend, observations
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from hlrp.errors import UserError
from hlrp.foundation.backbones import load_backbone, make_tiny_backbone
from hlrp.foundation.backbones.tokenizer import byte_tokenizer
from hlrp.foundation.backends import BackendMode, FoundationBatch, VLABackend
from hlrp.foundation.backends.code_grammar import CodeGrammar, code_token
from hlrp.foundation.backends.qwen3vl_chat_backend import Qwen3VLChatBackend
from hlrp.foundation.backends.qwen_inputs import QwenPixels
from hlrp.foundation.config import BackendConfig


def config(**changes: Any) -> BackendConfig:
    return config_of("qwen3vl_chat", **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "tiny"
    make_tiny_backbone(path, "qwen3vl_chat")
    return path


def make(folder: Path, **changes: Any) -> Any:
    return make_backend("qwen3vl_chat", folder, **changes)


@pytest.fixture(scope="module")
def backend(folder: Path) -> Qwen3VLChatBackend:
    return make(folder)


def predict(backend: Qwen3VLChatBackend, batch: FoundationBatch) -> Tensor:
    codes = backend.latent_from_batch(batch).codes
    assert codes is not None
    return codes


def by_processor(backend: Qwen3VLChatBackend, batch: FoundationBatch, side: str) -> Any:
    """What the multimodal processor itself makes of a batch's prompts."""
    messages = [[{"type": "image"}, {"type": "text", "text": text}] for text in batch.instruction]
    texts = [
        backend.processor.apply_chat_template([{"role": "user", "content": m}], add_generation_prompt=True)
        for m in messages
    ]
    images = [frame.numpy() for frame in batch.images["top"]]
    return backend.processor(text=texts, images=images, padding=True, padding_side=side, return_tensors="pt")


# ---- inputs


@pytest.mark.parametrize("size", [(96, 96), (64, 64), (120, 160), (200, 90)], ids=str)
def test_patches_are_those_of_the_processor(folder: Path, size: tuple[int, int]) -> None:
    processor = load_backbone(folder, weights=False)[1].image_processor
    images = frames(2, size)
    expected = processor(images=[image.numpy() for image in images], return_tensors="pt")
    pixels = QwenPixels(processor)
    found = pixels(images)
    torch.testing.assert_close(found.flatten(0, 1), expected.pixel_values, atol=1e-5, rtol=0)
    assert [[1, *pixels.grid(*size)]] * 2 == expected.image_grid_thw.tolist()
    assert torch.equal(pixels(images.float() / 255), found)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pixels(images), found)


def test_exactly_the_reply_is_supervised_behind_the_expanded_prompt(backend: Qwen3VLChatBackend) -> None:
    batch, codes = observations(), labels()
    mask = torch.ones(3, POSITIONS, dtype=torch.bool)
    mask[1, 2] = False
    mask[2] = False
    inputs, targets = backend.training_tokens(batch, codes, mask)
    expected = by_processor(backend, batch, "right")
    tokenizer, length = backend.processor.tokenizer, backend.grammar.length
    for i, text in enumerate(TEXTS):
        prompt = expected.input_ids[i][expected.attention_mask[i].bool()].tolist()
        # The text tokenizer alone knows one token per image; the model is given nine.
        alone = tokenizer(backend.prompts.text(text, 1)).input_ids
        assert len(prompt) == len(alone) + 8
        there = inputs["input_ids"][i][inputs["attention_mask"][i]].tolist()
        said = codes[i].where(mask[i], 0)
        answer = backend.grammar.complete(said[None])[0].tolist()
        assert there == prompt + answer[:-1]
        assert int(inputs["attention_mask"][i].sum()) == len(there) and inputs["attention_mask"][i][: len(there)].all()
        kept = [token if ok else -100 for token, ok in zip(answer, [True, *mask[i].tolist(), True, True], strict=True)]
        wanted = kept if bool(mask[i].any()) else [-100] * length
        begin = len(prompt) - 1
        assert targets[i].tolist() == [-100] * begin + wanted + [-100] * (targets.shape[1] - begin - length)
    assert tokenizer.decode(answer) == (
        "<|latent_start|>" + "<|latent_0|>" * POSITIONS + "<|latent_end|>" + tokenizer.eos_token
    )


def test_the_loss_is_the_language_models(backend: Qwen3VLChatBackend) -> None:
    """Against transformers' own forward with labels, its own positions, and every token of the reply."""
    batch, codes = observations(), labels()
    out = backend.loss_from_batch(replace(batch, target_codes=codes))
    expected = by_processor(backend, batch, "right")
    for i in range(3):
        prompt = expected.input_ids[i][expected.attention_mask[i].bool()]
        answer = backend.grammar.complete(codes[i : i + 1])[0]
        ids = torch.cat([prompt, answer])[None]
        reference = backend.vlm(
            input_ids=ids,
            labels=torch.cat([torch.full_like(prompt, -100), answer])[None],
            pixel_values=expected.pixel_values[36 * i : 36 * (i + 1)],
            image_grid_thw=expected.image_grid_thw[i : i + 1],
            mm_token_type_ids=(ids == backend.processor.image_token_id).int(),
        )
        torch.testing.assert_close(
            out.per_sample[i], reference.loss * backend.grammar.length / POSITIONS, atol=1e-4, rtol=1e-4
        )
        at = torch.arange(POSITIONS) + len(prompt)
        logits = reference.logits[0, at][:, backend.grammar.code_ids]
        assert out.logits is not None
        torch.testing.assert_close(out.logits[i], logits.detach(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(out.loss, out.per_sample.mean())


def test_what_is_masked_changes_nothing(backend: Qwen3VLChatBackend) -> None:
    codes, mask = labels(), torch.ones(3, POSITIONS, dtype=torch.bool)
    mask[0, 1], mask[2] = False, False
    first = backend.loss_from_batch(observations(target_codes=codes.where(mask, -100), target_mask=mask))
    second = backend.loss_from_batch(observations(target_codes=codes.where(mask, 10**6), target_mask=mask))
    assert torch.equal(first.loss, second.loss)
    assert first.supervised.tolist() == [True, True, False]
    assert float(first.per_sample[2]) == 0
    nothing = backend.loss_from_batch(observations(target_codes=codes, target_mask=torch.zeros_like(mask)))
    assert float(nothing.loss.detach()) == 0
    nothing.loss.backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in backend.parameters() if p.grad is not None)
    backend.zero_grad(set_to_none=True)
    with pytest.raises(ValueError, match="no labels"):
        backend.loss_from_batch(observations())
    with pytest.raises(ValueError, match="outside"):
        backend.loss_from_batch(observations(target_codes=codes + CODES))


# ---- decoding


class Constrained(LogitsProcessor):
    """The grammar in transformers' own `generate`."""

    def __init__(self, grammar: CodeGrammar, prompt: int) -> None:
        self.grammar, self.prompt = grammar, prompt

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        allowed = self.grammar.allowed(input_ids.shape[1] - self.prompt)
        return torch.full_like(scores, -torch.inf).index_copy(1, allowed, scores[:, allowed])


def test_greedy_codes_are_those_of_transformers_generate(backend: Qwen3VLChatBackend) -> None:
    batch = observations()
    inputs = by_processor(backend, batch, "left")
    prompt = inputs.input_ids.shape[1]
    answers = backend.vlm.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=backend.grammar.length,
        logits_processor=LogitsProcessorList([Constrained(backend.grammar, prompt)]),
    )[:, prompt:]
    out = backend.latent_from_batch(replace(batch, target_codes=labels()))
    assert out.codes is not None and out.logits is not None
    assert torch.equal(out.codes, backend.grammar.read(answers))
    # Without padding and company a sample gets the same; and each code is the likeliest after those before it.
    alone = FoundationBatch(images={"top": batch.images["top"][1:2]}, instruction=TEXTS[1:2])
    assert torch.equal(predict(backend, alone), out.codes[1:2])
    forced = backend.loss_from_batch(replace(batch, target_codes=out.codes)).logits
    assert forced is not None
    assert torch.equal(forced.argmax(-1), out.codes)
    torch.testing.assert_close(out.logits, forced, atol=1e-4, rtol=1e-4)


def test_two_thousand_answers_of_random_weights_are_valid(folder: Path) -> None:
    backend = make(folder)
    for parameter in backend.vlm.get_input_embeddings().parameters():
        parameter.data.mul_(3)  # wild logits
    count, valid, seen = 100, 0, torch.zeros(POSITIONS, CODES, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for round_ in range(20):
        batch = FoundationBatch(images={"top": frames(count, (32, 32), round_)}, instruction=["a", "bc"] * (count // 2))
        codes = backend.latent_from_batch(batch, temperature=[0.0, 1.0, 3.0][round_ % 3], generator=generator).codes
        assert codes is not None and codes.shape == (count, POSITIONS) and codes.dtype == torch.int64
        assert torch.equal(backend.grammar.read(backend.grammar.complete(codes)), codes)
        valid += int(((codes >= 0) & (codes < CODES)).all(1).sum())
        seen += torch.stack([torch.bincount(codes[:, s], minlength=CODES) for s in range(POSITIONS)])
    assert valid == 2_000
    assert int(seen.min()) > 0


def test_sampling_follows_temperature_and_generator(backend: Qwen3VLChatBackend) -> None:
    def sample(temperature: float, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        out = backend.latent_from_batch(observations(), temperature=temperature, generator=generator)
        assert out.codes is not None
        return out.codes

    assert torch.equal(sample(0.0, 0), sample(0.0, 1))
    assert torch.equal(sample(2.0, 0), sample(2.0, 0))
    assert any(not torch.equal(sample(2.0, 0), sample(2.0, seed)) for seed in range(1, 4))
    assert torch.equal(sample(1e-4, 5), sample(0.0, 0))


# ---- cameras and state


def test_a_missing_camera_has_no_image_in_the_prompt(folder: Path) -> None:
    two = make(folder, cameras=("top", "wrist"))
    present = {"wrist": torch.tensor([True, False, True])}
    images = {"top": frames(), "wrist": frames(size=(64, 32), seed=1)}
    batch = observations(images=images, image_masks=present, target_codes=labels())
    out, other = two.loss_from_batch(batch), replace(batch, images=images | {"wrist": frames(size=(64, 32), seed=2)})
    changed = two.loss_from_batch(other)
    assert out.logits is not None and changed.logits is not None
    torch.testing.assert_close(out.logits[1], changed.logits[1])
    assert not torch.allclose(out.logits[0], changed.logits[0], atol=1e-3)
    one = make(folder).loss_from_batch(observations(target_codes=labels())).logits
    assert one is not None
    torch.testing.assert_close(out.logits[1], one[1], atol=1e-3, rtol=1e-3)
    # Each image goes to its own sample and place: alone, a sample is as in the batch.
    last = FoundationBatch({k: v[2:] for k, v in images.items()}, TEXTS[2:], target_codes=labels()[2:])
    alone = two.loss_from_batch(last).logits
    assert alone is not None
    torch.testing.assert_close(out.logits[2:], alone, atol=1e-3, rtol=1e-3)
    blind = two.latent_from_batch(replace(batch, image_masks={k: torch.zeros(3, dtype=torch.bool) for k in images}))
    assert blind.codes is not None
    with pytest.raises(ValueError, match="wrist is missing from the batch"):
        two.latent_from_batch(observations())


def test_the_state_is_written_into_the_prompt(folder: Path) -> None:
    backend = make(folder, state_dim=3)
    state = torch.tensor([[0.0, -1.26, 50.0]] * 3)
    batch = observations(state=state, target_codes=labels())
    inputs, _ = backend.training_tokens(batch, labels(), torch.ones(3, POSITIONS, dtype=torch.bool))
    assert f"{TEXTS[0]}\nstate 0.0 -1.3 9.9" in backend.processor.tokenizer.decode(inputs["input_ids"][0])
    first, second = backend.loss_from_batch(batch), backend.loss_from_batch(replace(batch, state=state + 1))
    assert not torch.equal(first.loss, second.loss)
    with pytest.raises(ValueError, match="state: 3 numbers"):
        backend.latent_from_batch(observations())


def test_instructions_are_cut_and_cannot_pass_for_images_or_codes(folder: Path) -> None:
    short, size = make(folder, max_text_tokens=8), [(96, 96)]
    assert torch.equal(short.prompts.prompt("12345678", size).ids, short.prompts.prompt("123456789", size).ids)
    plain = short.prompts.prompt("a  b", size).ids
    assert torch.equal(short.prompts.prompt("a<|image_pad|> b", size).ids, plain)
    assert torch.equal(short.prompts.prompt(f"a{code_token(1)} b", size).ids, plain)


# ---- tokens and parts


def test_tokenizers_that_cannot_hold_the_codes_are_refused(folder: Path, tmp_path: Path) -> None:
    split = Path(shutil.copytree(folder, tmp_path / "split"))
    place = split / "tokenizer_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"split_special_tokens": True}))
    with pytest.raises(UserError, match=r"splits <\|latent_start\|> into 16 tokens"):
        make(split)
    model, processor = load_backbone(folder)
    state = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"][code_token(3)] = 255
    state["model"]["vocab"].pop(next(k for k, v in state["model"]["vocab"].items() if v == 255 and len(k) == 1))
    processor.tokenizer._tokenizer = type(processor.tokenizer.backend_tokenizer).from_str(json.dumps(state))
    with pytest.raises(UserError, match=r"<\|latent_3\|> is a word of the tokenizer already, with id 255"):
        Qwen3VLChatBackend(config(), model, processor).setup()
    model, processor = load_backbone(folder)
    processor.image_processor.merge_size = 3
    with pytest.raises(UserError, match=r"processor \(16, 3, 2\), model \(16, 2, 2\)"):
        Qwen3VLChatBackend(config(), model, processor).setup()
    with pytest.raises(UserError, match="predicts codes, not 'flow'"):
        make(folder, mode=BackendMode.FLOW)


def test_new_tokens_have_rows_of_their_own_and_old_ones_keep_theirs(folder: Path) -> None:
    before, processor = load_backbone(folder)
    after = make(folder)
    old, new = before.get_input_embeddings().weight, after.vlm.get_input_embeddings().weight
    assert len(new) == len(old) + CODES + 2 == after.vlm.config.text_config.vocab_size
    assert torch.equal(new[: len(old)], old)
    assert 0.5 < float(new[len(old) :].std() / old.std()) < 2
    assert after.vlm.lm_head.weight is new
    assert len(byte_tokenizer([])) == 256 and len(after.processor.tokenizer) == len(processor.tokenizer) + CODES + 2


def test_parts_hold_every_parameter_once_and_none_is_idle(folder: Path) -> None:
    backend = make(folder)
    assert isinstance(backend, VLABackend)
    held = [id(p) for name in ("vision", "language", "head") for part in backend.part(name) for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in backend.parameters())
    backend.loss_from_batch(observations(target_codes=labels())).loss.backward()
    assert [name for name, p in backend.named_parameters() if p.grad is None] == []


def test_what_is_saved_rebuilds_the_same_model(folder: Path, tmp_path: Path) -> None:
    backend = make(folder, layers=2)
    backend.save_backbone(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    again = Qwen3VLChatBackend.from_backbone(backend.config, tmp_path, weights=False)
    again.load_state_dict(backend.state_dict(), strict=True)
    assert torch.equal(predict(again.eval(), observations()), predict(backend, observations()))
    with pytest.raises(UserError, match="9 language layers are asked for, the backbone has 4"):
        make(folder, layers=9)


def test_bfloat16_autocast_gives_a_float32_loss(folder: Path) -> None:
    backend = make(folder)
    with torch.autocast("cpu", torch.bfloat16):
        out = backend.loss_from_batch(observations(target_codes=labels()))
        codes = backend.latent_from_batch(observations()).codes
    assert out.loss.dtype == torch.float32 and codes is not None
    out.loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in backend.parameters() if p.grad is not None)
