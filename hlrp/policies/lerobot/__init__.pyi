# Made by scripts/make_policy_classes.py: run it, do not edit.

from hlrp.policies.lerobot.act import ACT as ACT
from hlrp.policies.lerobot.diffusion import Diffusion as Diffusion
from hlrp.policies.lerobot.eo1 import EO1 as EO1
from hlrp.policies.lerobot.evo1 import Evo1 as Evo1
from hlrp.policies.lerobot.fastwam import FastWAM as FastWAM
from hlrp.policies.lerobot.gaussian_actor import GaussianActor as GaussianActor
from hlrp.policies.lerobot.groot import Groot as Groot
from hlrp.policies.lerobot.hlrp_action_expert_direct import HLRPActionExpertDirect as HLRPActionExpertDirect
from hlrp.policies.lerobot.hlrp_action_expert_latent import HLRPActionExpertLatent as HLRPActionExpertLatent
from hlrp.policies.lerobot.hlrp_vla_direct import HLRPVLADirect as HLRPVLADirect
from hlrp.policies.lerobot.lingbot_va import LingBotVA as LingBotVA
from hlrp.policies.lerobot.molmoact2 import MolmoAct2 as MolmoAct2
from hlrp.policies.lerobot.multi_task_dit import MultiTaskDiT as MultiTaskDiT
from hlrp.policies.lerobot.pi0 import Pi0 as Pi0
from hlrp.policies.lerobot.pi0_fast import Pi0Fast as Pi0Fast
from hlrp.policies.lerobot.pi05 import Pi05 as Pi05
from hlrp.policies.lerobot.smolvla import SmolVLA as SmolVLA
from hlrp.policies.lerobot.tdmpc import TDMPC as TDMPC
from hlrp.policies.lerobot.vla_jepa import VLAJEPA as VLAJEPA
from hlrp.policies.lerobot.vqbet import VQBeT as VQBeT
from hlrp.policies.lerobot.wall_x import WallX as WallX
from hlrp.policies.lerobot.xvla import XVLA as XVLA
