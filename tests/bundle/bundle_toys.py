"""Policies on the tiny backbone and random batches that fit them."""

from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class
from torch import Tensor

import lerobot_policy_felix_bundle as bundle

CAMERAS = ("observation.images.front", "observation.images.wrist")
CONFIGS: dict[str, Any] = {
    "hlrp_action_expert_direct": bundle.HLRPActionExpertDirectConfig,
    "hlrp_action_expert_latent": bundle.HLRPActionExpertLatentConfig,
    "hlrp_vla_direct": bundle.HLRPVLADirectConfig,
}
MEANING = {"codebook_size": 8, "code_seq_len": 2, "num_frames": 3, "offset_seconds": 0.2, "laq_sha256": "a" * 64}
"""T = 3 frames, so 4 positions of 8 codes."""
POSITIONS, CHUNK, ACTIONS, STATE = 4, 6, 3, 2


def make_config(name: str, *, cameras=CAMERAS[:1], state=True, **fields: Any) -> Any:
    features = {camera: PolicyFeature(FeatureType.VISUAL, (3, 64, 80)) for camera in cameras}
    if state:
        features["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    meaning = MEANING if name != "hlrp_action_expert_direct" else {}
    steps = {} if name == "hlrp_vla_direct" else {"num_steps": 3}
    common = {
        "device": "cpu",
        "push_to_hub": False,
        "chunk_size": CHUNK,
        "n_action_steps": 4,
        "input_features": features,
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTIONS,))},
    }
    return CONFIGS[name](**{**common, **steps, **meaning, **fields})


def make_policy(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return get_policy_class(name)(make_config(name, **options))


def make_batch(count: int = 4, *, cameras=CAMERAS[:1], seed: int = 1) -> dict[str, Any]:
    """A preprocessed, labelled batch."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    batch: dict[str, Any] = {camera: torch.rand(count, 3, 64, 80, generator=generator) for camera in cameras}
    return batch | {
        "observation.state": normal(count, STATE),
        "task": ["push", "pull the long lever"] * (count // 2),
        "action": normal(count, CHUNK, ACTIONS),
        "action_is_pad": torch.zeros(count, CHUNK, dtype=torch.bool),
        "hlrp.codes": torch.randint(0, 8, (count, POSITIONS), generator=generator),
        "hlrp.code_mask": torch.ones(count, POSITIONS, dtype=torch.bool),
    }


def save_foundation(
    out: Path, spec: Any, camera: str, *, noise: float = 0.0, vectors: Any = None, **fields: Any
) -> Any:
    """Write a foundation model that has learned nothing.

    Args:
        out: Its folder.
        spec: What its codes or continuous latents mean.
        camera: What it sees.
        noise: Spread of what is added to the tiny backbone's weights.
        vectors: Mean and deviation of continuous latents, which the modes `vectors` and `flow` need.
        **fields: Of its `BackendConfig`, such as `mode` and `state_dim`, and of its statistics, `state_mean` and
            `state_std`.

    Returns:
        The backend that was saved, in evaluation mode.
    """
    from hlrp.foundation.backbones import resolve_backbone
    from hlrp.foundation.backends.smol_latent_head_backend import SmolLatentHeadBackend
    from hlrp.foundation.checkpoint import LabelStatistics, record_backbone, save
    from hlrp.foundation.config import BackendConfig

    torch.manual_seed(7)
    known = {name: fields.pop(name) for name in ("state_mean", "state_std") if name in fields}
    folder = resolve_backbone("tiny", "smol_latent_head", allow_download=False)
    config = BackendConfig(backend="smol_latent_head", spec=spec, cameras=(camera,), **fields)
    backend = SmolLatentHeadBackend.from_backbone(config, folder).eval()
    if noise:
        with torch.no_grad():
            for parameter in backend.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
    if vectors is not None:
        backend.set_target_statistics(*vectors)
    counts = [] if vectors is not None else [[1] * spec.codebook_size] * spec.positions
    statistics = LabelStatistics(code_counts=counts, **known)
    save(backend, out, backbone=record_backbone("tiny", folder), statistics=statistics)
    return backend


def gradients(policy: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Gradients of a step whose random numbers are always the same."""
    policy.train()
    policy.zero_grad()
    torch.manual_seed(5)
    policy(batch)[0].backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
