"""Small runs of LeRobot's policies: their settings, and LeRobot's own loop in this process to compare with."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

BACKBONE = {"pretrained_backbone_weights": None, "use_group_norm": True, "crop_shape": [56, 56]}
TINY: dict[str, dict[str, Any]] = {
    "act": {
        "chunk_size": 6,
        "n_action_steps": 6,
        "hidden_dim": 32,
        "n_heads": 2,
        "dim_feedforward": 32,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
        "pretrained_backbone_weights": None,
    },
    "diffusion": {
        **BACKBONE,
        "horizon": 8,
        "n_action_steps": 4,
        "drop_n_last_frames": 3,
        "down_dims": [16, 32],
        "n_groups": 4,
        "spatial_softmax_num_keypoints": 4,
        "diffusion_step_embed_dim": 16,
        "scheduler_warmup_steps": 4,
    },
    "vqbet": {
        **BACKBONE,
        "n_obs_steps": 2,
        "n_action_pred_token": 2,
        "chunk_size": 3,
        "n_vqvae_training_steps": 6,
        "vqvae_n_embed": 4,
        "vqvae_embedding_dim": 16,
        "vqvae_enc_hidden_dim": 16,
        "spatial_softmax_num_keypoints": 4,
        "gpt_input_dim": 32,
        "gpt_output_dim": 32,
        "hidden_dim": 32,
        "gpt_n_layer": 1,
        "gpt_n_head": 2,
        "scheduler_warmup_steps": 3,
    },
}


@dataclass
class Native:
    """What LeRobot's loop did: of every step loss, gradient norm and rate; held-out losses; the weights at the end."""

    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    eval_loss: list[float] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


def train_natively(policy: str, root: Path, out: Path, monkeypatch: Any, *, steps: int, **more: Any) -> Native:
    """Run `lerobot_train.train` itself in this process and watch its `update_policy`."""
    import draccus
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.scripts import lerobot_train

    from hlrp.config import resolve_policy_aliases
    from trainers.lerobot_command import encode

    arguments: dict[str, Any] = {
        "policy.type": policy,
        "policy.device": "cpu",
        "policy.push_to_hub": False,
        **{f"policy.{k}": v for k, v in resolve_policy_aliases(policy, TINY[policy]).items()},
        "dataset.repo_id": root.name,
        "dataset.root": str(root),
        "dataset.video_backend": "pyav",
        "output_dir": str(out),
        "steps": steps,
        "batch_size": 4,
        "num_workers": 0,
        "save_checkpoint": False,
        "env_eval_freq": 0,
        **more,
    }
    config = draccus.parse(TrainPipelineConfig, args=[f"--{k}={encode(v)}" for k, v in arguments.items()])
    seen = Native()
    update = lerobot_train.update_policy

    def watched(tracker: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        result = update(tracker, model, *args, **kwargs)
        seen.loss.append(tracker.loss.val)
        seen.grad_norm.append(tracker.grad_norm.val)
        seen.lr.append(tracker.lr.val)
        seen.weights = model.state_dict()
        return result

    monkeypatch.setattr(lerobot_train, "update_policy", watched)
    monkeypatch.setattr("sys.argv", ["lerobot-train"])
    info = lerobot_train.logging.info

    def heard(message: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(message, str) and "eval_loss=" in message:
            seen.eval_loss.append(float(message.rpartition("=")[2]))
        info(message, *args, **kwargs)

    monkeypatch.setattr(lerobot_train.logging, "info", heard)
    lerobot_train.train(config)
    seen.weights = copy.deepcopy(seen.weights)
    return seen
