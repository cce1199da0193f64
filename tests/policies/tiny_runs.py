"""Small runs of LeRobot's policies: their settings, and LeRobot's own loop in this process to compare with."""

import copy
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from own_signals import deliver
from safetensors.torch import load_file

from hlrp.config import load_config
from hlrp.errors import Interrupted
from hlrp.policies import LeRobotPolicyAdapter
from hlrp.runs import RunDirectory
from trainers.lightning.trainer import LightningTrainer
from trainers.policy_labels import label_fields

STEPS = 20
UNCACHED_STEPS = 5
"""Steps that are compared where every frame is decoded for every sample."""

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
"""Settings of LeRobot's policies without a backbone of their own."""

SMALL_CHUNKS = {"chunk_size": 6, "n_action_steps": 4}


def settings(policy: str) -> dict[str, Any]:
    """Settings of a small policy; one with a vision-language model gets the tiny one."""
    if policy.startswith("hlrp_"):
        # LeRobot's own loop does not tell a policy how long it is.
        return SMALL_CHUNKS | ({"run_steps": STEPS} if policy == "hlrp_action_expert_latent" else {})
    if policy != "smolvla":
        return TINY[policy]
    from hlrp.foundation.backbones import resolve_backbone

    return {
        **SMALL_CHUNKS,
        "vlm_model_name": str(resolve_backbone("tiny", "smol_latent_head", allow_download=False)),
        "load_vlm_weights": False,
        "freeze_vision_encoder": False,
        "train_expert_only": False,
        "num_vlm_layers": 0,
        "resize_imgs_with_padding": [96, 96],
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
    from lerobot.utils.import_utils import register_third_party_plugins

    from hlrp.config import resolve_policy_aliases
    from trainers.lerobot.command import encode

    register_third_party_plugins()
    arguments: dict[str, Any] = {
        "policy.type": policy,
        "policy.device": "cpu",
        "policy.push_to_hub": False,
        **{f"policy.{k}": v for k, v in resolve_policy_aliases(policy, settings(policy)).items()},
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
    config = draccus.parse(TrainPipelineConfig, args=[f"--{k}={encode(k, v)}" for k, v in arguments.items()])
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


def train_in_lightning(policy: str, root: Path, out: Path, **keys: Any) -> Path:
    """A run of `STEPS` steps; ``keys`` are those of the configuration."""
    run: Any = load_config(
        None, (), {k: (v, "test") for k, v in lightning_keys(policy, root, out, keys).items()}
    ).config
    return LightningTrainer().fit(run=run).path


def lightning_keys(policy: str, root: Path, out: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """The configuration of such a run."""
    return {
        "trainer_type": "lightning",
        "model.policy_type": policy,
        **{f"model.{k}": v for k, v in settings(policy).items()},
        "data.root": str(root),
        "data.video_backend": "pyav",
        "data.num_workers": 0,
        "trainer.steps": STEPS,
        "trainer.batch_size": 4,
        "trainer.log_freq": 1,
        "trainer.save_freq": STEPS,
        "trainer.device": "cpu",
        "output_dir": str(out),
        **keys,
    }


def rows_of(run: Path, key: str) -> list[float]:
    """One column of a run's metrics."""
    return [row[key] for row in RunDirectory.open(run).metrics() if key in row]


def assert_equal_runs(policy: str, root: Path, out: Path, monkeypatch: Any, **keys: Any) -> Path:
    """Losses, gradient norms, rates and weights are LeRobot's, frames read by LeRobot (the first steps) and stored.

    Returns:
        The run with the frame store.
    """
    fields = _native_labels(policy, root, out, keys)
    with monkeypatch.context() as patch:
        native = train_natively(policy, root, out / "native", patch, steps=STEPS, **fields)
    assert len(native.loss) == STEPS and native.loss[-1] != native.loss[0]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        _stop_after(UNCACHED_STEPS, patch)
        train_in_lightning(policy, root, out / "off", **{"data.cache": "off", **keys})
    run = train_in_lightning(policy, root, out / "ram", **{"data.cache": "ram", **keys})
    for name, steps in (("off", UNCACHED_STEPS), ("ram", STEPS)):
        for key in ("loss", "grad_norm", "lr"):
            assert rows_of(out / name, key) == pytest.approx(getattr(native, key)[:steps], rel=1e-5), (name, key)
    latest = RunDirectory.open(run).latest()
    assert latest is not None
    saved = load_file(latest.pretrained / "model.safetensors")
    for name, values in native.weights.items():
        if name in saved:  # safetensors keeps one of tensors that share memory
            torch.testing.assert_close(saved[name], values, rtol=1e-5, atol=1e-7, msg=name)
    assert set(saved) <= set(native.weights)
    return run


def _stop_after(steps: int, patch: Any) -> None:
    """Have a run, whose schedules are those of `STEPS`, end as by a signal."""
    after_batch = LeRobotPolicyAdapter.on_train_batch_end

    def stopping(self: LeRobotPolicyAdapter, *args: Any) -> None:
        after_batch(self, *args)
        if self.global_step == steps:
            deliver(signal.SIGTERM)

    patch.setattr(LeRobotPolicyAdapter, "on_train_batch_end", stopping)


def _native_labels(policy: str, root: Path, out: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """What `hlrp train --trainer lerobot` makes of the `latents` section."""
    from hlrp.data import read_dataset

    values = {**lightning_keys(policy, root, out, keys), "trainer_type": "lerobot"}
    run: Any = load_config(None, (), {k: (v, "test") for k, v in values.items()}).config
    return {f"policy.{k}": v for k, v in label_fields(run, read_dataset(None, root)).items()}
