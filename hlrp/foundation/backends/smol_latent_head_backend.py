"""A foundation model on SmolVLM2: a head reads the latents from its last hidden states.

Shapes: B batch, N tokens, W width of the language model, P positions, K codes, D width of a continuous latent.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads
from torch.nn.attention import SDPBackend, sdpa_kernel

from hlrp.compiled import blocks_of
from hlrp.foundation.backends.interfaces import (
    BackendMode,
    FoundationBatch,
    LatentOutput,
    LossOutput,
    PrefixBackend,
    masked_losses,
)
from hlrp.foundation.backends.latent_head import FlowHead, LatentHead
from hlrp.foundation.backends.smol_inputs import Patches, SmolPixels, SmolPrompts, Unkept, WholeFrames
from hlrp.foundation.backends.transformers_backend import TransformersBackend, refuse_unlike
from hlrp.foundation.config import BackendConfig

if TYPE_CHECKING:
    from transformers import Cache, SmolVLMForConditionalGeneration, SmolVLMProcessor

_SMALLEST_STD = 1e-6


class SmolLatentHeadBackend(TransformersBackend, PrefixBackend):
    """A backend on SmolVLM2. All positions are predicted at once, in one pass.

    Tokens are, in order: the chat template's beginning, one image per camera, the instruction, the template's end,
    and the state as one embedded token if it is used. Attention is causal, as in pretraining; a missing camera's
    tokens are attended by none.

    In the continuous modes targets are standardised with `set_target_statistics`, which are saved with the weights.

    Args:
        config: What is predicted from what. `layers` keeps the first layers of the language model, as SmolVLA does.
        model: `SmolVLMForConditionalGeneration`; its language modelling head is not used and not kept.
        processor: Its processor.

    Raises:
        UserError: Model, processor and configuration do not fit each other.
    """

    model_type: ClassVar[str] = "smolvlm"
    family: ClassVar[str] = "SmolVLM2"
    latent_weights: ClassVar[tuple[str, ...]] = ("head.", "flow.", "target_")
    state_weights: ClassVar[tuple[str, ...]] = ("state_projection.",)
    keeps_bfloat16: ClassVar[bool] = True

    image_positions: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, config: BackendConfig, model: "SmolVLMForConditionalGeneration", processor: "SmolVLMProcessor"
    ) -> None:
        super().__init__(config, model, processor)
        self.vlm = model.model
        Patches.instead_of(self.vlm.vision_model.embeddings.patch_embedding)
        self._keep_layers(self.vlm.text_model)
        self.pixels, self.sight = SmolPixels(processor.image_processor), WholeFrames()
        self.prompts = SmolPrompts(processor, len(config.cameras), config.max_text_tokens)
        self.register_buffer("image_positions", torch.tensor(self.prompts.image_positions), persistent=False)
        self._make_heads(int(self.vlm.config.text_config.hidden_size))

    def _make_heads(self, width: int) -> None:
        config, spec = self.config, self.config.spec
        size = spec.vector_dim or 0
        outputs = {BackendMode.CODES: spec.codebook_size, BackendMode.VECTORS: size, BackendMode.FLOW: width}
        self.head = LatentHead(width, spec.positions, outputs[config.mode])
        self.flow = FlowHead(size, width) if config.mode is BackendMode.FLOW else None
        self.state_projection = nn.Linear(config.state_dim, width) if config.state_dim is not None else None
        if config.mode is not BackendMode.CODES:
            # NaN until they are set or loaded.
            self.register_buffer("target_mean", torch.full((size,), torch.nan))
            self.register_buffer("target_std", torch.full((size,), torch.nan))
        self._statistics_known = False

    @classmethod
    def write_tiny_backbone(cls, folder: Path, seed: int) -> None:
        """A small SmolVLM with a tokenizer of its own."""
        from hlrp.foundation.backbones.tiny_smolvlm import tiny_smolvlm

        for part in tiny_smolvlm():
            part.save_pretrained(folder)

    def setup(self) -> None:
        """Check that tokenizer, processor and model fit each other.

        Raises:
            UserError: They do not; the message names both sides.
        """
        config, tokenizer, images = self.vlm.config, self.processor.tokenizer, self.processor.image_processor
        rows = self.vlm.get_input_embeddings().num_embeddings
        highest = max(tokenizer.get_vocab().values()) + 1
        pairs = [
            ("tokens per image", "processor", self.prompts.image_tokens, "model", self.vlm.image_seq_len),
            ("side of an image", "processor", self.pixels.side, "model", config.vision_config.image_size),
            ("image token", "tokenizer", self.processor.image_token_id, "model", config.image_token_id),
            ("scaling of pixels", "processor", (images.do_rescale, images.do_normalize), "model", (True, True)),
        ]
        too_high = [f"token ids: tokenizer {highest}, embeddings of the model {rows}"] if highest > rows else []
        refuse_unlike(pairs, *too_high)

    def part(self, name: str) -> Sequence[nn.Module]:
        """The modules of a part.

        `vision` is the image encoder, `language` the connector and the language model, `head` what is not the
        backbone's.
        """
        heads = [m for m in (self.head, self.flow, self.state_projection) if m is not None]
        parts = {
            "vision": [self.vlm.vision_model],
            "language": [self.vlm.connector, self.vlm.text_model],
            "head": heads,
        }
        return parts[name]

    def blocks_to_compile(self) -> list[nn.Module]:
        """The layers of the VLM, and the heads."""
        heads = [head for head in (self.head, self.flow) if isinstance(head, LatentHead | FlowHead)]
        return [*blocks_of(self.vlm), *heads]

    def drop_head(self) -> None:
        """See `PrefixBackend.drop_head`."""
        self.head = nn.Identity()
        text = self.vlm.text_model
        # An expert sees the last layer's keys and values, nothing behind them.
        text.norm, text.layers[-1].mlp = nn.Identity(), nn.Identity()
        for name, parameter in text.layers[-1].named_parameters():
            if not any(part in name for part in ("k_proj", "v_proj", "input_layernorm")):
                parameter.requires_grad_(False)

    # ---- reading the observation

    def features(self, batch: FoundationBatch, *, cache: "Cache | None" = None) -> tuple[Tensor, Tensor]:
        """See `PrefixBackend.features`."""
        ids, mask = self.prompts.batch(batch.instruction, batch.device)
        if self.state_projection is not None:
            # One token more, behind each sample's own.
            ids, mask = F.pad(ids, (0, 1)), F.pad(mask, (1, 0), value=True)
        tokens = self.vlm.get_input_embeddings()(ids)
        images = self._image_tokens(batch)
        tokens = tokens.index_copy(1, self.image_positions, images.to(tokens.dtype))
        if self.state_projection is not None:
            place = (mask.sum(1) - 1)[:, None, None].expand(-1, 1, tokens.shape[2])
            tokens = tokens.scatter(1, place, self._state(batch).to(tokens.dtype))
        missing = self._mask_missing(batch, mask)
        # Behind a sample's tokens there is only padding, which causal attention hides anyway; kernels without a mask
        # are faster. With a missing camera in between, positions count what is there. The mask is made here: of a
        # plain one transformers would ask the device whether it hides anything.
        seen = {"attention_mask": _causal(mask), "position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if missing else {}
        with _attention_kernel(tokens):
            hidden = self.vlm.text_model(
                inputs_embeds=tokens,
                past_key_values=Unkept() if cache is None else cache,
                use_cache=cache is not None,
                **seen,
            ).last_hidden_state
        return hidden, mask

    def _mask_missing(self, batch: FoundationBatch, mask: Tensor) -> bool:
        """Take the tokens of missing cameras out of the mask, in place; False: all are known to be there."""
        flags = {name: there for name, there in (batch.image_masks or {}).items() if name in self.config.cameras}
        # Flags on a GPU are not read: that would wait for it.
        if all(there.device.type == "cpu" and bool(there.all()) for there in flags.values()):
            return False
        for camera, (start, end) in zip(self.config.cameras, self.prompts.spans, strict=True):
            if camera in flags:
                mask[:, start:end] &= flags[camera][:, None].to(mask.device, non_blocking=True)
        return True

    def _image_tokens(self, batch: FoundationBatch) -> Tensor:
        """The cameras' images as tokens, ``[B, cameras * image tokens, W]``; all go through the encoder at once."""
        frames = [self.pixels(images) for images in self._camera_images(batch)]
        pixels = frames[0] if len(frames) == 1 else torch.cat(frames)
        vision = self.vlm.vision_model
        encoded = self.vlm.connector(self.sight(vision, pixels.to(vision.dtype)))
        per_camera = encoded.unflatten(0, (len(self.config.cameras), batch.batch_size))
        return per_camera.transpose(0, 1).flatten(1, 2)

    def _state(self, batch: FoundationBatch) -> Tensor:
        state = self._checked_state(batch)
        assert self.state_projection is not None
        weight = self.state_projection.weight
        return self.state_projection(state.to(weight.device, weight.dtype, non_blocking=True))[:, None]

    # ---- learning and predicting

    def loss_from_batch(self, batch: FoundationBatch) -> LossOutput:
        """The training loss: cross-entropy per position, or squared error of standardised latents or velocities.

        Raises:
            ValueError: The batch lacks the labels that the mode needs, or an input; or target statistics are not set.
        """
        if self.mode is BackendMode.CODES:
            codes, mask = batch.check_codes(self.positions, self.codebook_size)
            logits = self.head(*self.features(batch)).float()
            safe = torch.where(mask, codes, 0)
            losses = F.cross_entropy(logits.flatten(0, 1), safe.flatten(), reduction="none").view(codes.shape)
            return LossOutput(*masked_losses(losses, mask), logits=logits.detach())
        target, mask = self._targets(batch)
        read = self.head(*self.features(batch)).float()
        if self.flow is not None:
            losses = self.flow.losses(target, read)
            return LossOutput(*masked_losses(losses, mask))
        losses = F.mse_loss(read, target, reduction="none").mean(-1)
        return LossOutput(*masked_losses(losses, mask), vectors=self._in_units(read.detach()))

    def latent_from_batch(
        self, batch: FoundationBatch, *, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> LatentOutput:
        """Predict from the observations alone; targets in the batch are not read.

        Args:
            batch: The observations.
            temperature: 0: the most likely codes; above: sampled. In mode `flow`, the standard deviation of the noise
                that the flow starts from. Mode `vectors` has nothing to sample.
            generator: Source of randomness; None: the global one.

        Raises:
            ValueError: An input is missing, or target statistics are not set.
        """
        if self.mode is not BackendMode.CODES:
            self._check_statistics()
        read = self.head(*self.features(batch)).float()
        if self.mode is BackendMode.CODES:
            return LatentOutput(codes=_choose(read, temperature, generator), logits=read)
        if self.flow is not None:
            read = self.flow.sample(read, temperature=temperature, generator=generator)
        return LatentOutput(vectors=self._in_units(read))

    def _in_units(self, standardised: Tensor) -> Tensor:
        return standardised * self.target_std + self.target_mean

    def standardised(self, vectors: Tensor) -> Tensor:
        """See `VLABackend.standardised`."""
        if self.mode is BackendMode.CODES:
            return super().standardised(vectors)
        return (vectors.float() - self.target_mean) / self.target_std

    def set_target_statistics(self, mean: Tensor, std: Tensor) -> None:
        """See `VLABackend.set_target_statistics`."""
        if self.mode is BackendMode.CODES:
            raise ValueError("mode 'codes' has no continuous targets")
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.target_mean.shape or not bool(value.isfinite().all()):
                raise ValueError(f"{name}: {len(self.target_mean)} finite numbers are needed, got {list(value.shape)}")
        self.target_mean.copy_(mean)
        self.target_std.copy_(torch.where(std > _SMALLEST_STD, std, torch.ones_like(std)))
        self._statistics_known = True

    def _check_statistics(self) -> None:
        # Read from the device once; a checkpoint's arrive with the weights.
        if not self._statistics_known:
            if not bool(self.target_std.isfinite().all()):
                raise ValueError("target statistics are missing: call set_target_statistics before the first batch")
            self._statistics_known = True

    def _targets(self, batch: FoundationBatch) -> tuple[Tensor, Tensor]:
        """Standardised targets ``[B, P, D]``, zero where there is no label, and bool ``[B, P]``."""
        self._check_statistics()
        vectors, shape = batch.target_vectors, (self.positions, self.config.spec.vector_dim)
        if vectors is None or vectors.shape[1:] != shape:
            given = "none" if vectors is None else list(vectors.shape)
            raise ValueError(f"target_vectors: [B, {shape[0]}, {shape[1]}] is needed, got {given}")
        mask = batch.target_mask
        if mask is None:
            mask = torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
        # What is masked may be NaN, and NaN times zero is NaN in the gradient.
        return torch.where(mask[..., None], self.standardised(vectors), 0.0), mask


def _causal(mask: Tensor) -> Tensor:
    """Which tokens a token sees, bool ``[B, 1, N, N]``, of those that are there, bool ``[B, N]``."""
    count = mask.shape[1]
    before = torch.ones(count, count, dtype=torch.bool, device=mask.device).tril()
    return before & mask[:, None, None]


def _attention_kernel(tokens: Tensor) -> AbstractContextManager[None]:
    """On a CPU, five times faster for gradients in bfloat16 than the kernel that PyTorch would choose."""
    if tokens.device.type == "cpu" and tokens.dtype == torch.bfloat16 and tokens.requires_grad:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature <= 0:
        return logits.argmax(-1)
    chances = (logits / temperature).softmax(-1).flatten(0, 1)
    if generator is not None:
        chances = chances.to(generator.device)
    return torch.multinomial(chances, 1, generator=generator).view(logits.shape[:-1]).to(logits.device)
