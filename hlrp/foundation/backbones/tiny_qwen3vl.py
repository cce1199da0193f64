"""A Qwen3-VL with small random weights: 96-pixel images in 9 tokens, about a million parameters."""

from typing import Any

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from hlrp.foundation.backbones.tokenizer import byte_tokenizer

_IMAGE_SIZE, _PATCH, _MERGE = 96, 16, 2
_NAMES = {
    "pad_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
# One token per byte makes words expensive: the roles of the pretrained models' template are left out.
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def tiny_qwen3vl() -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """The model, with weights from PyTorch's global generator, and its processor."""
    tokenizer = byte_tokenizer(["<|im_start|>", *_NAMES.values()], padding_side="left", **_NAMES)
    return Qwen3VLForConditionalGeneration(_config(tokenizer)), _processor(tokenizer)


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _NAMES.items()}
    # The pretrained models' initial deviation of 0.02 belongs to a width of 2048: here little would pass through.
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "initializer_range": round(128**-0.5, 4),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [8, 4, 4],
            "mrope_interleaved": True,
        },
        "pad_token_id": ids["pad_token"],
        "eos_token_id": ids["eos_token"],
        "tie_word_embeddings": True,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "depth": 2,
        "num_heads": 4,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
        "out_hidden_size": 128,
        "num_position_embeddings": (_IMAGE_SIZE // _PATCH) ** 2,
        "deepstack_visual_indexes": [0],
        "initializer_range": round(64**-0.5, 4),
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_start_token"],
        vision_end_token_id=ids["vision_end_token"],
        # As in the pretrained 2B and 4B models.
        tie_word_embeddings=True,
    )


def _processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    # Larger images are made smaller: whatever is recorded, an image takes at most 9 tokens.
    pixels = {"shortest_edge": (_PATCH * _MERGE) ** 2, "longest_edge": _IMAGE_SIZE**2}
    options: dict[str, Any] = {
        "size": pixels,
        "patch_size": _PATCH,
        "merge_size": _MERGE,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**options),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**options),
        chat_template=_TEMPLATE,
    )
