"""Inputs of SmolVLM: frames to pixels in batched tensor operations, instructions to tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads
from transformers import Cache

from hlrp.errors import UserError
from hlrp.foundation.backbones.loading import quiet_transformers
from hlrp.foundation.backends.instructions import plain_instruction

# Prompts are padded to a multiple: fewer different lengths to allocate and compile for. A CPU has no use for that.
_LENGTH_STEP = 8
_CACHED_PROMPTS = 65_536


class Patches(nn.Conv2d):
    """A convolution whose windows do not overlap, as the matrix product that it is.

    PyTorch's convolution takes a hundred times as long for bfloat16 images on a CPU: 90 ms for one of 512 pixels.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in `nn.Conv2d`
        """``[B, C, H, W]`` to ``[B, width, H / patch, W / patch]``; both sides are multiples of the patch."""
        height, width = self.kernel_size
        windows = input.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(windows.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    @classmethod
    def instead_of(cls, convolution: nn.Conv2d) -> None:
        """Make it one of these, with its weights and their names, if its windows touch and are all there is."""
        touching = convolution.stride == convolution.kernel_size and convolution.dilation == (1, 1)
        if touching and convolution.groups == 1 and convolution.padding in ("valid", (0, 0)):
            convolution.__class__ = cls


class Unkept(Cache):
    """A cache that keeps nothing. Without one, transformers would ask the device whether samples are packed."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What is given."""
        return key_states, value_states


class WholeFrames:
    """SmolVLM's vision model on frames that fill their square, which ours do.

    It computes what the model itself does. The model would have every pass ask the device which patches there are.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, vision: Any, pixels: Tensor) -> Tensor:
        """``[B, 3, side, side]`` in the model's type to its last hidden states, ``[B, patches, width]``."""
        parts = vision.embeddings
        key = pixels.dtype, pixels.device
        if key not in self._places:
            self._places[key] = self._find_places(parts, pixels[:1])
        patches = parts.patch_embedding(pixels).flatten(2).transpose(1, 2)
        hidden = patches + parts.position_embedding(self._places[key].expand(len(pixels), -1))
        last: Tensor = vision.post_layernorm(
            vision.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        )
        return last

    @staticmethod
    def _find_places(parts: Any, frame: Tensor) -> Tensor:
        """What the model takes for its patches' places, ``[1, patches]``; they depend on the type of its numbers."""
        seen: list[Tensor] = []
        hook = parts.position_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        there = frame.new_ones((1, *(side // parts.patch_size for side in frame.shape[2:])), dtype=torch.bool)
        try:
            # Not inference tensors: the same places serve training later.
            with torch.inference_mode(False), torch.no_grad():
                parts(pixel_values=frame.detach().clone(), patch_attention_mask=there.clone())
        finally:
            hook.remove()
        return seen[0]


class SmolPixels:
    """The processor's resizing and scaling of whole frames (no splitting into tiles), for a batch on its device.

    The processor resizes with Pillow, image by image. Resizing is linear along each axis: the same weights, taken from
    Pillow itself, are applied to the batch as two matrix products, with Pillow's rounding after each.

    Args:
        image_processor: SmolVLM's.
    """

    def __init__(self, image_processor: Any) -> None:
        self._processor = image_processor
        self.side = int(image_processor.max_image_size["longest_edge"])
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        self._border = 0.0

    @contextmanager
    def rounding_from(self, border: float) -> Iterator[None]:
        """Inside, values are rounded up from ``border`` levels below the middle of two: to see what depends on it."""
        self._border = border
        try:
            yield
        finally:
            self._border = 0.0

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Frames to pixels.

        Args:
            images: ``[B, 3, H, W]``, uint8, or floating point in [0, 1].

        Returns:
            float32 ``[B, 3, side, side]`` on the same device.
        """
        with torch.autocast(images.device.type, enabled=False):
            whole = images.dtype == torch.uint8
            # New in either case, and so are resized ones: all that follows is in place.
            pixels = images.float() if whole else self._round(images.float() * 255)
            for size in self._sizes(pixels):
                pixels = self._resize(pixels, size)
            scale, shift = self._constant("scale", pixels.device), self._constant("shift", pixels.device)
            return pixels.mul_(scale).sub_(shift)

    def _sizes(self, images: Tensor) -> list[tuple[int, int]]:
        """The sizes that the processor goes through: its proportions kept, then a square."""
        from transformers.models.smolvlm.image_processing_smolvlm import get_resize_output_image_size

        square = (self.side, self.side)
        if tuple(images.shape[-2:]) == square:
            return []
        return [get_resize_output_image_size(images, self.side), square] if self._processor.do_resize else [square]

    def _resize(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = pixels.shape[-2:]
        if width != size[1]:
            pixels = self._to_levels(pixels @ self._constant((width, size[1]), pixels.device))
        if height != size[0]:
            pixels = self._to_levels(self._constant((height, size[0]), pixels.device).mT @ pixels)
        return pixels

    def _round(self, pixels: Tensor) -> Tensor:
        moved = pixels.add_(self._border) if self._border else pixels
        return moved.round_().clamp_(0, 255)

    def _to_levels(self, pixels: Tensor) -> Tensor:
        return (pixels + (0.5 + self._border)).floor_().clamp_(0, 255)

    def _constant(self, name: Any, device: torch.device) -> Tensor:
        if (name, device) not in self._constants:
            # Not an inference tensor: the same constant serves training later.
            with torch.inference_mode(False):
                self._constants[name, device] = torch.from_numpy(self._make_constant(name)).to(device)
        return self._constants[name, device]

    def _make_constant(self, name: Any) -> "np.ndarray[Any, np.dtype[np.float32]]":
        processor = self._processor
        std = np.asarray(processor.image_std, np.float64).reshape(3, 1, 1)
        if name == "scale":
            return (processor.rescale_factor / std).astype(np.float32)
        if name == "shift":
            return (np.asarray(processor.image_mean, np.float64).reshape(3, 1, 1) / std).astype(np.float32)
        from PIL import Image

        before, after = name
        unit = Image.fromarray(np.eye(before, dtype=np.float32))
        return np.array(unit.resize((after, before), Image.Resampling(int(processor.resample))))


class SmolPrompts:
    """Instructions to tokens, by the processor's chat template: first an image per camera, then the text.

    Args:
        processor: SmolVLM's.
        cameras: Images per prompt.
        max_text_tokens: Longest instruction; longer ones are cut.

    Raises:
        UserError: The template is missing or does not put the images before the text.
    """

    def __init__(self, processor: Any, cameras: int, max_text_tokens: int) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._cameras, self._max = cameras, max_text_tokens
        self._cache: dict[str, list[int]] = {}
        self._pad = next(i for i in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0) if i is not None)
        self.image_positions = self._find_images("x")
        """Where the image tokens are in every prompt, camera by camera."""
        if self._find_images("") != self.image_positions or len(self.image_positions) != cameras * self.image_tokens:
            raise UserError(
                f"the backbone's chat template does not put {cameras} x {self.image_tokens} image tokens first",
                where="chat_template.jinja",
                fix="use a backbone whose template gives images and text in the order of the message",
            )
        self.spans = self._find_spans()
        """First token and end of each camera's image, the marks around it included."""

    @property
    def image_tokens(self) -> int:
        """Tokens per image."""
        return int(self._processor.image_seq_len)

    def batch(self, instructions: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens of a batch, padded on the right.

        Returns:
            Ids int64 ``[B, N]`` and mask bool ``[B, N]``, False on padding.
        """
        # A batch has few different instructions: making a tensor of a list costs more than the copies.
        number = {text: i for i, text in enumerate(dict.fromkeys(instructions))}
        rows = [self.ids(text) for text in number]
        step = 1 if device.type == "cpu" else _LENGTH_STEP
        length = -(-max(map(len, rows)) // step) * step
        order = torch.tensor([number[text] for text in instructions])
        ids = torch.tensor([row + [self._pad] * (length - len(row)) for row in rows])[order]
        counts = torch.tensor([len(row) for row in rows])[order]
        mask = torch.arange(length) < counts[:, None]
        return ids.to(device, non_blocking=True), mask.to(device, non_blocking=True)

    def ids(self, instruction: str) -> list[int]:
        """Tokens of one prompt."""
        if instruction not in self._cache:
            if len(self._cache) >= _CACHED_PROMPTS:
                self._cache.clear()
            self._cache[instruction] = self._tokenize(instruction)
        return self._cache[instruction]

    def _tokenize(self, instruction: str) -> list[int]:
        content = [{"type": "image"} for _ in range(self._cameras)]
        marks = self._tokenizer.all_special_tokens
        content += [{"type": "text", "text": plain_instruction(instruction, self._tokenizer, marks, self._max)}]
        messages = [{"role": "user", "content": content}]
        with quiet_transformers():
            text = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        none = [[0] * self._cameras]
        text = self._processor.expand_text_with_image_tokens([text], image_rows=none, image_cols=none)[0]
        return list(self._tokenizer(text).input_ids)

    def _find_images(self, instruction: str) -> list[int]:
        ids = self.ids(instruction)
        return [i for i, token in enumerate(ids) if token == self._processor.image_token_id]

    def _find_spans(self) -> list[tuple[int, int]]:
        ids = self.ids("x")
        names = (self._processor.fake_image_token, self._processor.global_image_token)
        marks = set(self._tokenizer.convert_tokens_to_ids(list(names)))
        spans: list[tuple[int, int]] = []
        for camera in range(self._cameras):
            start = self.image_positions[camera * self.image_tokens]
            end = self.image_positions[(camera + 1) * self.image_tokens - 1] + 1
            taken = spans[-1][1] if spans else 0
            while start > taken and ids[start - 1] in marks:
                start -= 1
            if end < len(ids) and ids[end] in marks:
                end += 1
            spans.append((start, end))
        return spans
