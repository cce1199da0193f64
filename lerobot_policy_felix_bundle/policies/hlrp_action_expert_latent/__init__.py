"""The policy `hlrp_action_expert_latent`; its model is imported when LeRobot asks for it."""

from lerobot_policy_felix_bundle.policies.hlrp_action_expert_latent.configuration_hlrp_action_expert_latent import (
    HLRPActionExpertLatentConfig,
)

__all__ = ["HLRPActionExpertLatentConfig"]
