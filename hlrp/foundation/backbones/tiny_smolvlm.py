"""A SmolVLM2 with small random weights: 96-pixel images in 16 tokens, about a million parameters."""

from transformers import (
    LlamaConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.image_utils import PILImageResampling

from hlrp.foundation.backbones.tokenizer import byte_tokenizer

_IMAGE_SIZE, _PATCH, _SCALE = 96, 12, 2
_START, _END, _PAD = "<|im_start|>", "<end_of_utterance>", "<|im_end|>"
_NAMES = {
    "bos_token": _START,
    "eos_token": _END,
    "pad_token": _PAD,
    "end_of_utterance_token": _END,
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
}
# One token per byte makes words expensive: the roles of the pretrained models' template are left out.
_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>{% endfor %}"
)


def tiny_smolvlm() -> tuple[SmolVLMForConditionalGeneration, SmolVLMProcessor]:
    """The model, with weights from PyTorch's global generator, and its processor."""
    tokenizer = byte_tokenizer(list(dict.fromkeys(_NAMES.values())), padding_side="right", **_NAMES)
    return SmolVLMForConditionalGeneration(_config(tokenizer)), _processor(tokenizer)


def _config(tokenizer: PreTrainedTokenizerFast) -> SmolVLMConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(_NAMES[f"{name}_token"]) for name in ("bos", "eos", "pad", "image")}
    # The pretrained models' initial deviation of 0.02 belongs to a width of 960: here little would pass through.
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        initializer_range=round(128**-0.5, 4),
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        pad_token_id=ids["pad"],
    )
    vision = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": _IMAGE_SIZE,
        "patch_size": _PATCH,
        "initializer_range": round(64**-0.5, 4),
    }
    return SmolVLMConfig(
        vision_config=vision,
        text_config=text.to_dict(),
        scale_factor=_SCALE,
        image_token_id=ids["image"],
        pad_token_id=ids["pad"],
        # As in the pretrained 500M model; LeRobot looks for both matrices by name.
        tie_word_embeddings=False,
    )


def _processor(tokenizer: PreTrainedTokenizerFast) -> SmolVLMProcessor:
    side = {"longest_edge": _IMAGE_SIZE}
    # Bicubic is what transformers falls back to for tensors; naming it avoids a warning each time.
    options = {"size": side, "max_image_size": side, "resample": PILImageResampling.BICUBIC}
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(do_image_splitting=False, **options),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(
            **options, video_sampling={"fps": 1, "max_frames": 8, "video_size": side}
        ),
        image_seq_len=(_IMAGE_SIZE // _PATCH // _SCALE) ** 2,
        chat_template=_TEMPLATE,
    )
