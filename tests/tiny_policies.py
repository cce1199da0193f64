"""Tiny checkpoints with random weights, saved by LeRobot's own classes, for tests that need one to evaluate."""

from pathlib import Path

SHAPES = {
    "pusht": {"state": 2, "action": 2, "image": 96, "high": 512.0},
    "metaworld_light": {"state": 4, "action": 4, "image": 96, "high": 1.0},
}


def save_tiny_act(folder: Path, env: str = "pusht", *, seed: int = 0, camera: str = "observation.image", stats=True):
    """Save an ACT of width 32 that fits an environment's observations, as a `pretrained_model` folder."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    shape = SHAPES[env]
    size, high = shape["image"], shape["high"]
    config = ACTConfig(
        device="cpu",
        push_to_hub=False,
        dim_model=32,
        n_heads=2,
        dim_feedforward=32,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        chunk_size=10,
        n_action_steps=10,
        pretrained_backbone_weights=None,
        input_features={
            camera: PolicyFeature(FeatureType.VISUAL, (3, size, size)),
            "observation.state": PolicyFeature(FeatureType.STATE, (shape["state"],)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (shape["action"],))},
    )
    torch.manual_seed(seed)
    policy = ACTPolicy(config)

    def vector(n: int) -> dict:
        return {"mean": torch.full((n,), high / 2), "std": torch.full((n,), high / 4)}

    image = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
    values = {camera: image, "observation.state": vector(shape["state"]), "action": vector(shape["action"])}
    processors = make_pre_post_processors(config, dataset_stats=values if stats else None)
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return folder
