"""A foundation model on Qwen3-VL: the latent codes are tokens of its vocabulary, and its reply in a chat."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from hlrp.errors import UserError
from hlrp.foundation.backends.code_grammar import CodeGrammar, all_tokens, check_tokens, learn_grammar, start_rows
from hlrp.foundation.backends.interfaces import (
    BackendMode,
    FoundationBatch,
    LatentOutput,
    LossOutput,
    masked_losses,
)
from hlrp.foundation.backends.qwen_inputs import Prompt, QwenPixels, QwenPrompts
from hlrp.foundation.backends.transformers_backend import WHERE, TransformersBackend, refuse_unlike
from hlrp.foundation.config import BackendConfig

if TYPE_CHECKING:
    from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

# Not a multiple of patches: what setup compares with the processor includes its resizing.
_TRIAL_SIZES = ((96, 96), (90, 170))


class Qwen3VLChatBackend(TransformersBackend):
    """A backend on Qwen3-VL.

    The prompt is the chat template's: one image per camera that the sample has, the instruction and, if it is used, the
    standardised state in words. The reply is a start token, P code tokens, an end token, and the end of the turn.

    The loss is the usual one of a language model, over its whole vocabulary and over the reply alone, summed over the
    tokens of a reply and divided by P: each code position carries its own token and an equal share of the tokens around
    the codes, and positions without label carry neither. Where a later position is supervised and an earlier one is
    not, the earlier one reads code 0.

    Predictions are generated code by code, and nothing but a code can be chosen; see `CodeGrammar`.

    Args:
        config: What is predicted from what; mode `codes`. `layers` keeps the first layers of the language model.
        model: `Qwen3VLForConditionalGeneration`.
        processor: Its processor.

    Raises:
        UserError: Model and configuration do not fit each other.
    """

    model_type: ClassVar[str] = "qwen3_vl"
    family: ClassVar[str] = "Qwen3-VL"
    one_by_one: ClassVar[bool] = True

    grammar: CodeGrammar

    def __init__(
        self, config: BackendConfig, model: "Qwen3VLForConditionalGeneration", processor: "Qwen3VLProcessor"
    ) -> None:
        super().__init__(config, model, processor)
        if config.mode is not BackendMode.CODES:
            raise UserError(
                f"backend {config.backend} predicts codes, not {config.mode.value!r}",
                where="model.mode",
                fix="set model.mode=codes, or model.backend=smol_latent_head",
            )
        self.vlm = model
        # Image features enter at the first layers; without one of these their weights would be idle.
        least = max(1, len(model.config.vision_config.deepstack_visual_indexes))
        self._keep_layers(model.model.language_model, least=least)
        self.pixels = QwenPixels(processor.image_processor)
        self.prompts = QwenPrompts(processor, model.model, config.max_text_tokens)

    @classmethod
    def write_tiny_backbone(cls, folder: Path, seed: int) -> None:
        """A small Qwen3-VL with a tokenizer of its own."""
        from hlrp.foundation.backbones.tiny_qwen3vl import tiny_qwen3vl

        for part in tiny_qwen3vl():
            part.save_pretrained(folder)

    # ---- setting up

    def setup(self) -> None:
        """Add the codes' tokens to tokenizer and model, and check that tokenizer, processor and model fit each other.

        Raises:
            UserError: They do not; the message names both sides, or the token that the tokenizer does not keep whole.
        """
        self._check_processor()
        self._add_tokens()
        spec = self.config.spec
        self.grammar = learn_grammar(
            self.processor.tokenizer,
            self.prompts.reply,
            codebook_size=spec.codebook_size,
            positions=spec.positions,
        )
        self._check_prompts()

    def _check_processor(self) -> None:
        config, images = self.vlm.config, self.processor.image_processor
        vision, names = config.vision_config, ("patch_size", "merge_size", "temporal_patch_size")
        cut = tuple(int(getattr(images, name)) for name in names)
        read = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        changes = (images.do_resize, images.do_rescale, images.do_normalize)
        pairs = [
            ("patch, merge and frames of an image", "processor", cut, "model", read),
            ("image token", "tokenizer", self.processor.image_token_id, "model", config.image_token_id),
            ("resizing, scaling and normalising of pixels", "processor", changes, "model", (True, True, True)),
        ]
        refuse_unlike(pairs)

    def _add_tokens(self) -> None:
        tokenizer, wanted = self.processor.tokenizer, all_tokens(self.config.spec.codebook_size)
        words, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
        taken = next((token for token in wanted if token in words and token not in added), None)
        if taken is not None:
            raise UserError(
                f"{taken} is a word of the tokenizer already, with id {words[taken]}",
                where=WHERE,
                fix="use a backbone without tokens of these names",
            )
        new = [token for token in wanted if token not in added]
        tokenizer.add_tokens(new, special_tokens=True)
        check_tokens(tokenizer, self.config.spec.codebook_size)
        self.prompts.refresh()
        rows = max(tokenizer.get_vocab().values()) + 1
        # Pretrained models have spare rows; they are never made fewer.
        if rows > self.vlm.get_input_embeddings().num_embeddings:
            self.vlm.resize_token_embeddings(rows, mean_resizing=False)
        if new:
            matrices = [m.weight for m in (self.vlm.get_input_embeddings(), self.vlm.get_output_embeddings())]
            for matrix in matrices[:1] if matrices[0] is matrices[1] else matrices:
                start_rows(matrix, tokenizer.convert_tokens_to_ids(new))

    def _check_prompts(self) -> None:
        """The processor itself must expand images to as many tokens, at the same places."""
        import numpy as np

        images = [np.zeros((*size, 3), np.uint8) for size in _TRIAL_SIZES]
        text = self.prompts.text("x", len(images))
        expected = list(self.processor(text=[text], images=images).input_ids[0])
        ours = self.prompts.prompt("x", _TRIAL_SIZES).ids.tolist()
        if ours != expected:
            refuse_unlike([], f"tokens of a prompt: processor {len(expected)}, chat template {len(ours)}")

    def part(self, name: str) -> Sequence[nn.Module]:
        """The modules of a part.

        `vision` is the image encoder, `language` what brings its features to the language model, and that model's
        layers. `head` is the embeddings of tokens, and the output matrix where it is another one: the codes' rows are
        among them, and are learned whatever else is frozen.
        """
        vision, text = self.vlm.model.visual, self.vlm.model.language_model
        inward, outward = self.vlm.get_input_embeddings(), self.vlm.get_output_embeddings()
        parts: dict[str, list[nn.Module]] = {
            "vision": [vision.patch_embed, vision.pos_embed, vision.rotary_pos_emb, vision.blocks],
            "language": [vision.merger, vision.deepstack_merger_list, text.layers, text.norm, text.rotary_emb],
            "head": [inward] if inward.weight is outward.weight else [inward, outward],
        }
        return parts[name]

    # ---- reading the observation

    def _read(self, batch: FoundationBatch) -> tuple[list[Prompt], dict[str, Tensor]]:
        """The prompts of a batch, and what the model needs of its images: nothing where no sample has any.

        Raises:
            ValueError: A camera or the state that the model sees is missing from the batch.
        """
        frames = self._camera_images(batch)
        present = self._present(batch)
        sizes = [(int(images.shape[2]), int(images.shape[3])) for images in frames]
        states = None if self.config.state_dim is None else self._checked_state(batch).float().tolist()
        prompts = []
        for i, (instruction, has) in enumerate(zip(batch.instruction, present.tolist(), strict=True)):
            seen = [size for size, there in zip(sizes, has, strict=True) if there]
            prompts.append(self.prompts.prompt(instruction, seen, None if states is None else states[i]))
        if not bool(present.any()):
            return prompts, {}
        return prompts, self._patches(frames, sizes, present)

    def _present(self, batch: FoundationBatch) -> Tensor:
        """Which samples have which camera, bool ``[B, cameras]`` on the CPU."""
        all_there = torch.ones(batch.batch_size, dtype=torch.bool)
        masks = batch.image_masks or {}
        return torch.stack([masks.get(camera, all_there).cpu() for camera in self.config.cameras], dim=1)

    def _patches(self, frames: list[Tensor], sizes: list[tuple[int, int]], present: Tensor) -> dict[str, Tensor]:
        """Patches of all images that there are, sample by sample, and their grids."""
        per_camera = [self.pixels(images) for images in frames]
        grids = torch.tensor([(1, *self.pixels.grid(*size)) for size in sizes])
        pixels = torch.cat(per_camera, dim=1)
        flat = pixels.flatten(0, 1)
        if not bool(present.all()):
            counts = torch.tensor([patches.shape[1] for patches in per_camera])
            # By number and not by mask: how many there are is known here, and a GPU would have to be asked.
            rows = present.repeat_interleave(counts, dim=1).flatten().nonzero()[:, 0]
            flat = flat.index_select(0, rows.to(flat.device, non_blocking=True))
        # The grids stay on the CPU: the vision model reads them as lists.
        return {"pixel_values": flat, "image_grid_thw": grids.expand(len(present), -1, -1)[present]}

    # ---- learning and predicting

    def training_tokens(self, batch: FoundationBatch, codes: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What the model reads in training, and what it learns to say.

        Args:
            batch: The observations.
            codes: int64 ``[B, P]``; anything where ``mask`` does not hold.
            mask: bool ``[B, P]``.

        Returns:
            Inputs of `Qwen3VLModel` of length N, padded on the right; and labels int64 ``[B, N]``: what follows each
            token, -100 on prompts, padding, positions without label and samples without any.
        """
        prompts, images = self._read(batch)
        ids, positions, _, lengths = self.prompts.batch(prompts, batch.device, left=False)
        answers = self.grammar.complete(torch.where(mask, codes, 0))
        steps = torch.arange(self.grammar.length, device=ids.device)
        # The last token of an answer is said and not read.
        read, fill = steps[:-1], self.grammar.length - 1
        after = lengths[:, :1] + read
        ids = F.pad(ids, (0, fill), value=self.prompts.pad).scatter(1, after, answers[:, :-1])
        along = (lengths[:, 1:] + read).expand(3, -1, -1)
        positions = F.pad(positions, (0, fill)).scatter(2, after.expand(3, -1, -1), along)
        supervised = mask.any(1, keepdim=True).repeat(1, self.grammar.length)
        supervised[:, list(self.grammar.places)] = mask
        labels = torch.full_like(ids, -100).scatter(1, lengths[:, :1] + steps - 1, answers.where(supervised, -100))
        there = torch.arange(ids.shape[1], device=ids.device) < lengths[:, :1] + fill
        return {"input_ids": ids, "attention_mask": there, "position_ids": positions, **images}, labels

    def loss_from_batch(self, batch: FoundationBatch) -> LossOutput:
        """The training loss: cross-entropy of the reply, the labels before each token given.

        Raises:
            ValueError: The batch lacks labels or an input.
        """
        codes, mask = batch.check_codes(self.positions, self.codebook_size)
        inputs, labels = self.training_tokens(batch, codes, mask)
        hidden = self.vlm.model(**inputs, use_cache=False).last_hidden_state
        # The vocabulary is large: only what follows the prompt is scored. The last token of a prompt says the first.
        lengths = inputs["attention_mask"].sum(1, keepdim=True) - (self.grammar.length - 1)
        said = lengths - 1 + torch.arange(self.grammar.length, device=hidden.device)
        hidden = hidden.gather(1, said[..., None].expand(-1, -1, hidden.shape[-1]))
        logits, targets = self.vlm.lm_head(hidden).float(), labels.gather(1, said)
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        places = list(self.grammar.places)
        losses = each[:, places]
        losses = losses + (each.sum(1, keepdim=True) - losses.sum(1, keepdim=True)) / self.positions
        return LossOutput(*masked_losses(losses, mask), logits=self.grammar.logits(logits[:, places]).detach())

    @torch.no_grad()
    def latent_from_batch(
        self, batch: FoundationBatch, *, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> LatentOutput:
        """See `VLABackend.latent_from_batch`; code by code, each chosen or sampled given those before it."""
        from transformers import DynamicCache

        prompts, images = self._read(batch)
        ids, positions, mask, lengths = self.prompts.batch(prompts, batch.device, left=True)
        places, layout = self.grammar.places, self.grammar.layout
        cache = DynamicCache(config=self.vlm.config.text_config)
        ids, new = self._append(ids, layout[: places[0]])
        positions = torch.cat([positions, self._following(lengths, 0, new)], dim=2)
        mask = F.pad(mask, (0, new), value=True)
        codes: list[Tensor] = []
        logits: list[Tensor] = []
        for i, place in enumerate(places):
            hidden = self.vlm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                **({} if codes else images),
            ).last_hidden_state
            said = self.vlm.lm_head(hidden[:, -1])
            logits.append(self.grammar.logits(said).float())
            codes.append(self.grammar.choose(said, temperature=temperature, generator=generator))
            until = places[i + 1] if i + 1 < len(places) else place + 1
            ids, new = self._append(self.grammar.code_ids[codes[-1]][:, None], layout[place + 1 : until])
            positions = self._following(lengths, place, new + 1)
            mask = F.pad(mask, (0, new + 1), value=True)
        return LatentOutput(codes=torch.stack(codes, dim=1), logits=torch.stack(logits, dim=1))

    @staticmethod
    def _append(ids: Tensor, fixed: Tensor) -> tuple[Tensor, int]:
        return torch.cat([ids, fixed.expand(len(ids), -1)], dim=1), len(fixed)

    @staticmethod
    def _following(lengths: Tensor, start: int, count: int) -> Tensor:
        """Positions of ``count`` tokens of an answer from the ``start``-th on, ``[3, B, count]``."""
        along = torch.arange(start, start + count, device=lengths.device)
        return (lengths[:, 1:] + along).expand(3, -1, -1)
