"""Clean classes of LeRobot's policies: every field an argument, trained by Lightning.

Made by scripts/make_policy_classes.py: run it, do not edit.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "ACT": "act",
    "Diffusion": "diffusion",
    "EO1": "eo1",
    "Evo1": "evo1",
    "FastWAM": "fastwam",
    "GaussianActor": "gaussian_actor",
    "Groot": "groot",
    "HLRPActionExpertDirect": "hlrp_action_expert_direct",
    "HLRPActionExpertLatent": "hlrp_action_expert_latent",
    "HLRPVLADirect": "hlrp_vla_direct",
    "LingBotVA": "lingbot_va",
    "MolmoAct2": "molmoact2",
    "MultiTaskDiT": "multi_task_dit",
    "Pi0": "pi0",
    "Pi05": "pi05",
    "Pi0Fast": "pi0_fast",
    "SmolVLA": "smolvla",
    "TDMPC": "tdmpc",
    "VLAJEPA": "vla_jepa",
    "VQBeT": "vqbet",
    "WallX": "wall_x",
    "XVLA": "xvla",
}

__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hlrp.policies.lerobot.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
