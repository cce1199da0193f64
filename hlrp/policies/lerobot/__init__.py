"""Clean classes of LeRobot's policies: every field an argument, trained by Lightning.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlrp.policies.lerobot.act import ACT
    from hlrp.policies.lerobot.diffusion import Diffusion
    from hlrp.policies.lerobot.eo1 import EO1
    from hlrp.policies.lerobot.evo1 import Evo1
    from hlrp.policies.lerobot.fastwam import FastWAM
    from hlrp.policies.lerobot.gaussian_actor import GaussianActor
    from hlrp.policies.lerobot.groot import Groot
    from hlrp.policies.lerobot.hlrp_action_expert_direct import HLRPActionExpertDirect
    from hlrp.policies.lerobot.hlrp_action_expert_latent import HLRPActionExpertLatent
    from hlrp.policies.lerobot.hlrp_vla_direct import HLRPVLADirect
    from hlrp.policies.lerobot.lingbot_va import LingBotVA
    from hlrp.policies.lerobot.molmoact2 import MolmoAct2
    from hlrp.policies.lerobot.multi_task_dit import MultiTaskDiT
    from hlrp.policies.lerobot.pi0 import Pi0
    from hlrp.policies.lerobot.pi0_fast import Pi0Fast
    from hlrp.policies.lerobot.pi05 import Pi05
    from hlrp.policies.lerobot.smolvla import SmolVLA
    from hlrp.policies.lerobot.tdmpc import TDMPC
    from hlrp.policies.lerobot.vla_jepa import VLAJEPA
    from hlrp.policies.lerobot.vqbet import VQBeT
    from hlrp.policies.lerobot.wall_x import WallX
    from hlrp.policies.lerobot.xvla import XVLA

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

__all__ = [
    "ACT",
    "EO1",
    "TDMPC",
    "VLAJEPA",
    "XVLA",
    "Diffusion",
    "Evo1",
    "FastWAM",
    "GaussianActor",
    "Groot",
    "HLRPActionExpertDirect",
    "HLRPActionExpertLatent",
    "HLRPVLADirect",
    "LingBotVA",
    "MolmoAct2",
    "MultiTaskDiT",
    "Pi0",
    "Pi0Fast",
    "Pi05",
    "SmolVLA",
    "VQBeT",
    "WallX",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hlrp.policies.lerobot.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
