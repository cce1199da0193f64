"""Fields of the policies with an action expert. Nothing heavy is imported, as in `configuration`."""

from dataclasses import dataclass
from typing import Any

from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass
class HLRPExpertConfig(HLRPPolicyConfig):
    """Fields of the policies with a flow-matching action expert (LeRobot's, from SmolVLA).

    Args:
        num_steps: Denoising steps of a chunk.
        expert_width_multiplier: Width of the expert, of the VLM's.
        self_attn_every_n_layers: Layers in between attend across to the VLM alone; None: 2, or as the policy needs it.
        min_period: Of the time embedding; the shortest.
        max_period: And the longest.
        rtc_config: LeRobot's `RTCConfig`, or its fields, for real-time chunking; None: off.
        compile_model: Whether torch.compile compiles the VLM and the denoising step, for training and for acting. The
            first loss and the first chunk of each length of instruction then take long.
        compile_mode: `torch.compile`'s mode for the denoising step: `reduce-overhead` makes a CUDA graph of it.
    """

    num_steps: int = 10
    expert_width_multiplier: float = 0.75
    self_attn_every_n_layers: int | None = None
    min_period: float = 4e-3
    max_period: float = 4.0
    rtc_config: Any = None
    compile_model: bool = False
    compile_mode: str = "reduce-overhead"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile_mode not in COMPILE_MODES:
            raise ValueError(f"compile_mode is {self.compile_mode!r}; choose from {', '.join(COMPILE_MODES)}")

    @property
    def self_attention_interval(self) -> int:
        """`self_attn_every_n_layers`, None resolved."""
        return 2 if self.self_attn_every_n_layers is None else self.self_attn_every_n_layers
