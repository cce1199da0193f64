"""Policies as Lightning trains them: the base class, the adapter for LeRobot, the clean classes."""

from typing import TYPE_CHECKING

from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.policies.adapter import LeRobotPolicyAdapter
    from hlrp.policies.policy import Policy

__all__ = ["LeRobotPolicyAdapter", "Policy"]

__getattr__ = lazy_names(__name__, {"adapter": ["LeRobotPolicyAdapter"], "policy": ["Policy"]})
