"""Tiny checkpoints with random weights, saved by LeRobot's own classes, for tests that need one to evaluate."""

from pathlib import Path
from typing import Any

SHAPES = {
    "pusht": {"state": 2, "action": 2, "image": 96, "high": 512.0},
    "metaworld_light": {"state": 4, "action": 4, "image": 96, "high": 1.0},
    "libero_light": {"state": 8, "action": 7, "image": 64, "high": 1.0},
}


ACT = {
    "dim_model": 32,
    "n_heads": 2,
    "dim_feedforward": 32,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "chunk_size": 10,
    "n_action_steps": 10,
}
DIFFUSION = {
    "n_obs_steps": 2,
    "horizon": 8,
    "n_action_steps": 6,
    "num_inference_steps": 2,
    "down_dims": (16, 32),
    "n_groups": 4,
    "spatial_softmax_num_keypoints": 4,
    "crop_shape": None,
}
"""Its actions come from noise and two observations, the one at hand and the one before."""

CODES = {"codebook_size": 8, "code_seq_len": 2, "num_frames": 2, "offset_seconds": 0.2, "laq_sha256": "a" * 64}
_CHUNK = {"chunk_size": 6, "n_action_steps": 4}
VLM_FIELDS: dict[str, dict[str, Any]] = {
    "smolvla": {
        **_CHUNK,
        "num_steps": 3,
        "load_vlm_weights": False,
        "num_vlm_layers": 0,
        "resize_imgs_with_padding": [96, 96],
    },
    "hlrp_vla_direct": {**_CHUNK, **CODES},
    "hlrp_action_expert_latent": {**_CHUNK, **CODES, "num_steps": 3},
    "hlrp_action_expert_direct": {**_CHUNK, "num_steps": 3},
}
"""The policies on a vision-language model, here the tiny one."""


def save_tiny_vlm(name: str, folder: Path, **options: Any) -> Path:
    """Save a policy of `VLM_FIELDS`, for PushT."""
    import lerobot_policy_felix_bundle  # noqa: F401 - registers ours
    from hlrp.foundation.backbones import resolve_backbone

    fields = dict(VLM_FIELDS[name])
    if name == "smolvla":
        fields["vlm_model_name"] = str(resolve_backbone("tiny", "smol_latent_head", allow_download=False))
    return save_tiny(name, folder, fields=fields, **options)


def save_tiny_act(folder: Path, env: str = "pusht", **options: Any) -> Path:
    """Save an ACT of width 32 that fits an environment's observations, as a `pretrained_model` folder."""
    return save_tiny("act", folder, env, **{"fields": ACT, **options})


def save_tiny(
    name: str,
    folder: Path,
    env: str = "pusht",
    *,
    fields: dict[str, Any],
    seed: int = 0,
    camera: str | tuple[str, ...] = "observation.image",
    stats: bool = True,
) -> Path:
    """Save a policy with random weights that fits an environment's observations, as a `pretrained_model` folder."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    shape, cameras = SHAPES[env], (camera,) if isinstance(camera, str) else camera
    size, high = shape["image"], shape["high"]
    backbone = {} if name in VLM_FIELDS else {"pretrained_backbone_weights": None}
    config = make_policy_config(
        name,
        device="cpu",
        push_to_hub=False,
        **backbone,
        input_features={
            **{name: PolicyFeature(FeatureType.VISUAL, (3, size, size)) for name in cameras},
            "observation.state": PolicyFeature(FeatureType.STATE, (shape["state"],)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (shape["action"],))},
        **fields,
    )
    torch.manual_seed(seed)
    policy = get_policy_class(name)(config)

    def vector(n: int) -> dict:
        limits = {"min": torch.zeros(n), "max": torch.full((n,), high)}
        return {"mean": torch.full((n,), high / 2), "std": torch.full((n,), high / 4), **limits}

    image = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
    values = {
        **dict.fromkeys(cameras, image),
        "observation.state": vector(shape["state"]),
        "action": vector(shape["action"]),
    }
    processors = make_pre_post_processors(config, dataset_stats=values if stats else None)
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return folder
