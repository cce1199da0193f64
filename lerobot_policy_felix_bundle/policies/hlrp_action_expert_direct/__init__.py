"""The policy `hlrp_action_expert_direct`; its model is imported when LeRobot asks for it."""

from lerobot_policy_felix_bundle.policies.hlrp_action_expert_direct.configuration_hlrp_action_expert_direct import (
    HLRPActionExpertDirectConfig,
)

__all__ = ["HLRPActionExpertDirectConfig"]
