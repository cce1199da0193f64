"""Inputs of Qwen3-VL: frames to patches in batched tensor operations, instructions to tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hlrp.errors import UserError
from hlrp.foundation.backbones.loading import quiet_transformers
from hlrp.foundation.backends.instructions import plain_instruction

# Prompts are padded to a multiple: fewer different lengths to allocate and compile for.
_LENGTH_STEP = 8
_CACHED_PROMPTS = 16_384
# Of a standardised state: beyond it is written as the limit, so that a number has few digits.
_STATE_LIMIT = 9.9


class QwenPixels:
    """The processor's resizing, scaling and cutting into patches, for a batch on its device.

    Args:
        image_processor: Qwen3-VL's.
    """

    def __init__(self, image_processor: Any) -> None:
        self._processor = image_processor

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches along height and width of a frame of this size.

        Raises:
            ValueError: The frame is more than 200 times as long as wide.
        """
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        p = self._processor
        limits = {"min_pixels": p.size["shortest_edge"], "max_pixels": p.size["longest_edge"]}
        new_height, new_width = smart_resize(height, width, factor=p.patch_size * p.merge_size, **limits)
        return new_height // p.patch_size, new_width // p.patch_size

    def tokens(self, height: int, width: int) -> int:
        """Tokens of a frame of this size in a prompt."""
        rows, columns = self.grid(height, width)
        return rows * columns // int(self._processor.merge_size) ** 2

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Frames to patches.

        Args:
            images: ``[B, 3, H, W]``, uint8, or floating point in [0, 1].

        Returns:
            float32 ``[B, N, D]`` on the same device: N patches in the order of their tokens, each an image of
            ``temporal_patch_size`` equal frames.
        """
        from transformers.image_utils import SizeDict

        p = self._processor
        if images.dtype != torch.uint8:
            images = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
        rows, columns = self.grid(*images.shape[-2:])
        size = SizeDict(height=rows * p.patch_size, width=columns * p.patch_size)
        with torch.autocast(images.device.type, enabled=False):
            resized = p.resize(image=images, size=size, resample=p.resample)
            pixels = p.rescale_and_normalize(
                resized, p.do_rescale, p.rescale_factor, p.do_normalize, tuple(p.image_mean), tuple(p.image_std)
            )
        m, side = p.merge_size, p.patch_size
        patches = pixels.view(len(pixels), 3, rows // m, m, side, columns // m, m, side)
        patches = patches.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        repeated = patches.expand(*patches.shape[:6], p.temporal_patch_size, side, side)
        return repeated.reshape(len(pixels), rows * columns, -1)


@dataclass(frozen=True)
class Prompt:
    """The tokens of one prompt, images expanded.

    Args:
        ids: int64 ``[N]``.
        positions: int64 ``[N, 3]``: time, row and column of each token.
        next: Position of what follows.
    """

    ids: Tensor
    positions: Tensor
    next: int


class QwenPrompts:
    """Observations to tokens, by the processor's chat template: an image per camera, then the text.

    Args:
        processor: Qwen3-VL's.
        model: `Qwen3VLModel`, for the positions of tokens.
        max_text_tokens: Longest instruction; longer ones are cut.
    """

    def __init__(self, processor: Any, model: Any, max_text_tokens: int) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        # Not the module itself, which would be known by two names.
        self._rope_index = model.get_rope_index
        self._pixels = QwenPixels(processor.image_processor)
        self._max = max_text_tokens
        self._cache: dict[Any, Prompt] = {}
        self._special: list[str] = []
        self.refresh()

    def refresh(self) -> None:
        """Take notice of tokens that were added to the tokenizer."""
        self._special = sorted(self._tokenizer.get_added_vocab(), key=len, reverse=True)
        self._cache.clear()

    @property
    def pad(self) -> int:
        """Token that fills up shorter prompts."""
        known = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        return next(i for i in known if i is not None)

    def prompt(
        self, instruction: str, sizes: Sequence[tuple[int, int]], state: Sequence[float] | None = None
    ) -> Prompt:
        """One prompt.

        Args:
            instruction: The task in words.
            sizes: Height and width of each image that the sample has.
            state: Standardised numbers, written with one decimal; None: no state.
        """
        key = (instruction, tuple(sizes))
        if state is not None:  # hardly ever twice the same
            return self._tokenize(f"{self._plain(instruction)}\n{_in_words(state)}", sizes)
        if key not in self._cache:
            if len(self._cache) >= _CACHED_PROMPTS:
                self._cache.clear()
            self._cache[key] = self._tokenize(self._plain(instruction), sizes)
        return self._cache[key]

    def batch(
        self, prompts: Sequence[Prompt], device: torch.device, *, left: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prompts of one length.

        Args:
            prompts: B of them.
            device: Where to.
            left: Pad before the prompts, as generating needs it; False: behind them.

        Returns:
            Ids int64 ``[B, N]``, positions int64 ``[3, B, N]``, mask bool ``[B, N]`` (False on padding), and int64
            ``[B, 2]``: length of each prompt, and position of what follows it.
        """
        lengths = torch.tensor([[len(p.ids), p.next] for p in prompts])
        side = "left" if left else "right"
        ids = pad_sequence([p.ids for p in prompts], True, self.pad, side)
        positions = pad_sequence([p.positions for p in prompts], True, 0, side)
        extra = -ids.shape[1] % _LENGTH_STEP
        fill = (extra, 0) if left else (0, extra)
        ids = torch.nn.functional.pad(ids, fill, value=self.pad)
        positions = torch.nn.functional.pad(positions, (0, 0, *fill)).permute(2, 0, 1)
        place = torch.arange(ids.shape[1])
        mask = place >= ids.shape[1] - lengths[:, :1] if left else place < lengths[:, :1]
        moved = [x.to(device, non_blocking=True) for x in (ids, positions, mask, lengths)]
        return moved[0], moved[1], moved[2], moved[3]

    def text(self, words: str, images: int, *, answer: str | None = None) -> str:
        """What the chat template makes of a message, one placeholder per image.

        Args:
            words: The message.
            images: Images before it.
            answer: The reply; None: the text ends where the reply begins.
        """
        content: list[Mapping[str, str]] = [{"type": "image"} for _ in range(images)]
        content.append({"type": "text", "text": words})
        messages: list[Any] = [{"role": "user", "content": content}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        with quiet_transformers():
            return str(self._processor.apply_chat_template(messages, add_generation_prompt=answer is None))

    def reply(self, answer: str) -> str:
        """What the chat template makes of a reply, without the prompt before it.

        Raises:
            UserError: The template changes the prompt when it is answered.
        """
        prompt, whole = self.text("x", 0), self.text("x", 0, answer=answer)
        if not whole.startswith(prompt):
            raise UserError(
                "the backbone's chat template does not put the reply behind the prompt",
                where="chat_template.jinja",
                fix="use a backbone whose template adds each message behind the ones before it",
            )
        return whole[len(prompt) :]

    def _tokenize(self, words: str, sizes: Sequence[tuple[int, int]]) -> Prompt:
        mark = self._processor.image_token
        head, *rest = self.text(words, len(sizes)).split(mark)
        expanded = head + "".join(
            mark * self._pixels.tokens(*size) + after for size, after in zip(sizes, rest, strict=True)
        )
        ids = torch.tensor(self._tokenizer(expanded).input_ids)
        grids = torch.tensor([(1, *self._pixels.grid(*size)) for size in sizes])
        is_image = (ids == self._processor.image_token_id).int()
        positions, _ = self._rope_index(ids[None], is_image[None], image_grid_thw=grids if len(sizes) else None)
        return Prompt(ids, positions[:, 0].T.contiguous(), int(positions.max()) + 1)

    def _plain(self, instruction: str) -> str:
        return plain_instruction(instruction, self._tokenizer, self._special, self._max)


def _in_words(state: Sequence[float]) -> str:
    limited = (round(max(-_STATE_LIMIT, min(_STATE_LIMIT, value)), 1) + 0.0 for value in state)
    return "state " + " ".join(f"{value:.1f}" for value in limited)
