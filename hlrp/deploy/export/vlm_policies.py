"""The policies on a vision-language model: SmolVLA and this project's three."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from lerobot.processor import NewLineTaskProcessorStep, TokenizerProcessorStep
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor

from hlrp.deploy.export.programs import FlowProgram, Program, Tensors
from hlrp.errors import UserError
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.foundation.backends.smol_inputs import WholeFrames
from hlrp.foundation.backends.smol_latent_head_backend import SmolLatentHeadBackend
from hlrp.policies.key_values import cache_of, cache_tensors
from hlrp.runtime.manifest import Noise
from hlrp.runtime.policy import TOKENS, TOKENS_MASK


class SmolVLAProgram(FlowProgram):
    """LeRobot's SmolVLA: keys and values of the prefix from one graph, the expert's steps in the other."""

    language: ClassVar[bool] = True

    def __init__(self, loaded: LoadedPolicy) -> None:
        super().__init__(loaded)
        self._model = self.policy.model
        self.noise = Noise((self.config.chunk_size, self.config.max_action_dim), 1)
        self._sight = WholeFrames()

    def encode(self, batch: dict[str, Any]) -> Tensors:
        """Mask, keys and values of the prefix."""
        seen: dict[str, Any] = {}

        def look(x_t: Tensor, **prefix: Any) -> Tensor:
            seen.update(prefix)
            return torch.zeros_like(x_t)

        vision = self._model.vlm_with_expert.get_vlm_model().vision_model
        # As it is written, the vision model asks for values of its masks.
        vision.forward = lambda pixel_values, **_: SimpleNamespace(last_hidden_state=self._sight(vision, pixel_values))
        self._model.denoise_step = look
        try:
            self.policy.predict_action_chunk(batch)
        finally:
            del self._model.denoise_step, vision.forward
        return {"mask": seen["prefix_pad_masks"], **cache_tensors(seen["past_key_values"])}

    def velocity(self, sample: Tensor, time: Tensor, encoded: Mapping[str, Tensor]) -> Tensor:
        """LeRobot's denoising step."""
        flow: Tensor = self._model.denoise_step(
            prefix_pad_masks=encoded["mask"], past_key_values=cache_of(encoded), x_t=sample, timestep=time
        )
        return flow

    def chunk(self, sample: Tensor) -> Tensor:
        """Without the numbers that no action has."""
        actions = sample[:, :, : self.config.output_features["action"].shape[0]]
        if self.config.adapt_to_pi_aloha:
            actions = self.policy._pi_aloha_encode_actions(actions)
        return actions

    def tokens(self, instruction: str) -> list[int]:
        """As the preprocessor gives them."""
        steps = self.loaded.preprocessor.steps
        tokenizer = next(step for step in steps if isinstance(step, TokenizerProcessorStep))
        if any(isinstance(step, NewLineTaskProcessorStep) for step in steps) and not instruction.endswith("\n"):
            instruction = f"{instruction}\n"
        limits = {"max_length": tokenizer.max_length, "truncation": tokenizer.truncation}
        return list(tokenizer.input_tokenizer(instruction, **limits)["input_ids"])

    @contextmanager
    def _tokens_given(self, batch: dict[str, Any], given: Tensors) -> Iterator[dict[str, Any]]:
        yield batch | {OBS_LANGUAGE_TOKENS: given[TOKENS], OBS_LANGUAGE_ATTENTION_MASK: given[TOKENS_MASK]}


class _Prompts:
    """Prompts of a backend whose tokens are given.

    Args:
        prompts: Its own.
        tokens: ``[1, N]``.
        mask: The same, False on padding.
    """

    def __init__(self, prompts: Any, tokens: Tensor, mask: Tensor) -> None:
        self.spans, self._tokens, self._mask = prompts.spans, tokens, mask

    def batch(self, *_: Any) -> tuple[Tensor, Tensor]:
        """The tokens; the mask is the caller's to change."""
        return self._tokens, self._mask.clone()


class _OfBackend(Program):
    """What this project's policies have in common: prompts that belong to their backend."""

    language: ClassVar[bool] = True

    def __init__(self, loaded: LoadedPolicy) -> None:
        super().__init__(loaded)
        self._backend = self.policy.backend
        if not isinstance(self._backend, SmolLatentHeadBackend):
            raise UserError(
                f"backend {self._backend.config.backend!r} writes codes one after another, which cannot be exported",
                where="RUN",
                fix="`hlrp serve` takes it",
            )

    def reads_language(self) -> bool:
        """See `Program.reads_language`."""
        return bool(self.config.use_language)

    def tokens(self, instruction: str) -> list[int]:
        """As the backend gives them, images and all."""
        return self._backend.prompts.ids(instruction)

    @contextmanager
    def _tokens_given(self, batch: dict[str, Any], given: Tensors) -> Iterator[dict[str, Any]]:
        own = self._backend.prompts
        self._backend.prompts = _Prompts(own, given[TOKENS], given[TOKENS_MASK])
        try:
            yield batch
        finally:
            self._backend.prompts = own


class VLADirectProgram(_OfBackend):
    """`hlrp_vla_direct`: one pass."""


class ExpertProgram(_OfBackend, FlowProgram):
    """The two action experts: keys, values and condition tokens from one graph, the expert's steps in the other."""

    def __init__(self, loaded: LoadedPolicy) -> None:
        super().__init__(loaded)
        self.noise = Noise((self.config.chunk_size, self.config.action_dim), 1)
        self._empty: dict[str, tuple[torch.dtype, torch.Size]] = {}

    def encode(self, batch: dict[str, Any]) -> Tensors:
        """All that the expert reads; a prefix of no tokens is no tensor of a graph."""
        found: Tensors = self.policy.encoded(batch)
        self._empty = {name: (t.dtype, t.shape) for name, t in found.items() if not t.numel()}
        return {name: tensor for name, tensor in found.items() if tensor.numel()}

    def velocity(self, sample: Tensor, time: Tensor, encoded: Mapping[str, Tensor]) -> Tensor:
        """The expert's."""
        empty = {name: torch.zeros(tuple(shape), dtype=dtype) for name, (dtype, shape) in self._empty.items()}
        flow: Tensor = self.policy.velocity({**encoded, **empty}, sample, time)
        return flow
