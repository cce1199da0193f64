"""Make a SmolVLM2 of the 500M model's sizes with random weights, to measure speed without a download.

    python scripts/make_random_smolvlm.py FOLDER

Sizes as in SmolVLM2-500M: 12 vision layers on 512 pixels, 64 tokens an image, and of the language model the first 16
layers, which is what SmolVLA keeps. The tokenizer is the tiny backbone's. bfloat16, 700 MB.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from hlrp.foundation.backbones import make_tiny_backbone

_SIDE = 512
_TEXT = {
    "vocab_size": 49280,
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 16,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
}
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": _SIDE,
    "patch_size": 16,
    "initializer_range": 0.02,
}


def main() -> None:
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        make_tiny_backbone(Path(scratch) / "tiny", "smol_latent_head")
        texts = [p for p in (Path(scratch) / "tiny").iterdir() if p.suffix in (".json", ".jinja")]
        files = {p.name: p.read_text(encoding="utf8") for p in texts}
    config = json.loads(files.pop("config.json"))
    config["text_config"].update(_TEXT)
    config["vision_config"].update(_VISION)
    config["scale_factor"] = 4
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    SmolVLMForConditionalGeneration(SmolVLMConfig(**config)).save_pretrained(folder)
    processor = json.loads(files["processor_config.json"])
    side = {"longest_edge": _SIDE}
    processor["image_seq_len"] = 64
    for part in (processor["image_processor"], processor["video_processor"]):
        part.update(size=side, max_image_size=side)
    processor["video_processor"]["video_sampling"]["video_size"] = side
    for name, text in (files | {"processor_config.json": json.dumps(processor)}).items():
        (folder / name).write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()
