"""Other names that people use for policy fields: one table, applied before LeRobot sees a field."""

from collections.abc import Iterator, Mapping
from typing import Any

from hlrp.errors import UserError

COMMON_ALIASES: dict[str, str] = {
    "learning_rate": "optimizer_lr",
    "lr": "optimizer_lr",
    "weight_decay": "optimizer_weight_decay",
}
"""Aliases of every policy."""

POLICY_ALIASES: dict[str, dict[str, str]] = {
    # The original ACT code's names.
    "act": {
        "hidden_dim": "dim_model",
        "nheads": "n_heads",
        "enc_layers": "n_encoder_layers",
        "dec_layers": "n_decoder_layers",
        "backbone": "vision_backbone",
        "lr_backbone": "optimizer_lr_backbone",
    },
    # Diffusion Policy's notebook speaks of three horizons.
    "diffusion": {
        "pred_horizon": "horizon",
        "chunk_size": "horizon",
        "obs_horizon": "n_obs_steps",
        "action_horizon": "n_action_steps",
        "num_diffusion_iters": "num_train_timesteps",
        "backbone": "vision_backbone",
    },
    "vqbet": {
        "hidden_dim": "gpt_hidden_dim",
        "chunk_size": "action_chunk_size",
        "codebook_size": "vqvae_n_embed",
        "backbone": "vision_backbone",
    },
    "smolvla": {
        "backbone": "vlm_model_name",
        "num_inference_steps": "num_steps",
        "action_horizon": "chunk_size",
    },
    "pi0": {"action_horizon": "chunk_size", "num_steps": "num_inference_steps"},
    "pi05": {"action_horizon": "chunk_size", "num_steps": "num_inference_steps"},
    "pi0_fast": {"action_horizon": "chunk_size"},
}
"""Aliases of single policies, by policy type."""


def policy_aliases(policy_type: str) -> dict[str, str]:
    """Return alias -> field name of the policy's LeRobot configuration class."""
    return COMMON_ALIASES | POLICY_ALIASES.get(policy_type, {})


def alias_groups(policy_type: str) -> Iterator[tuple[str, ...]]:
    """Yield the names that mean one and the same policy field, the field itself first."""
    aliases = policy_aliases(policy_type)
    for target in dict.fromkeys(aliases.values()):
        yield (target, *(name for name, other in aliases.items() if other == target))


def resolve_policy_aliases(policy_type: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Replace aliases by the policy's own field names, keeping the order of ``fields``.

    Resolving twice changes nothing.

    Raises:
        UserError: Two names of one field carry different values.
    """
    aliases = policy_aliases(policy_type)
    resolved: dict[str, Any] = {}
    given_as: dict[str, str] = {}
    for name, value in fields.items():
        target = aliases.get(name, name)
        if target in resolved and resolved[target] != value:
            raise UserError(
                f"{given_as[target]!r} and {name!r} are the same field of policy {policy_type!r} ({target!r}) "
                f"but have different values: {resolved[target]!r} and {value!r}",
                where=f"model.{name}",
                fix=f"keep one of them, for example model.{target}",
            )
        resolved[target] = value
        given_as.setdefault(target, name)
    return resolved
