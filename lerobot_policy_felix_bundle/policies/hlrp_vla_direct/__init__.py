"""The policy `hlrp_vla_direct`; its model is imported when LeRobot asks for it."""

from lerobot_policy_felix_bundle.policies.hlrp_vla_direct.configuration_hlrp_vla_direct import HLRPVLADirectConfig

__all__ = ["HLRPVLADirectConfig"]
