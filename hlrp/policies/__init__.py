"""Policies as Lightning trains them: the base class, the adapter for LeRobot, the clean classes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlrp.policies.adapter import LeRobotPolicyAdapter
    from hlrp.policies.policy import Policy

_LAZY = {"LeRobotPolicyAdapter": "adapter", "Policy": "policy"}

__all__ = ["LeRobotPolicyAdapter", "Policy"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hlrp.policies.{_LAZY[name]}"), name)
