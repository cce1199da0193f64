"""The policies whose actions come from LeRobot's flow-matching expert over a SmolVLM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import Tensor, nn

from lerobot_policy_felix_bundle.policies.common.configuration import HLRPExpertConfig
from lerobot_policy_felix_bundle.policies.common.expert import ActionExpert, Prefix
from lerobot_policy_felix_bundle.policies.common.observations import foundation_batch
from lerobot_policy_felix_bundle.policies.common.policy import HLRPPolicy
from lerobot_policy_felix_bundle.policies.common.vlm import build_backend


class ExpertPolicy(HLRPPolicy):
    """Base of the two action-expert policies."""

    config_class = HLRPExpertConfig
    name = "hlrp_expert_policy"
    config: HLRPExpertConfig

    def build(self, backbone_folder: Path | None) -> None:
        """The VLM and the expert."""
        self.rtc_processor: RTCProcessor | None = None
        self.init_rtc_processor()
        self.backend, folder = build_backend(self.config, backbone_folder)
        self.expert = ActionExpert(self.config, self.backend.vlm, folder, self.rtc_processor)

    def drop_code_head(self) -> None:
        """Leave out the head that reads codes, and what only its input depends on."""
        self.backend.head = nn.Identity()
        text = self.backend.vlm.text_model
        # The expert sees the last layer's keys and values, nothing behind them.
        text.norm, text.layers[-1].mlp = nn.Identity(), nn.Identity()
        for name, parameter in text.layers[-1].named_parameters():
            if not any(part in name for part in ("k_proj", "v_proj", "input_layernorm")):
                parameter.requires_grad_(False)

    def save_backbone(self, folder: Path) -> None:
        """Configuration, tokenizer and processor of the VLM."""
        self.backend.save_backbone(folder)

    def supports_rtc(self) -> bool:
        """LeRobot's real-time chunking guides the denoising steps."""
        return True

    def init_rtc_processor(self) -> None:
        """Make what `config.rtc_config` asks for; LeRobot's rollout calls this after it has set it."""
        if isinstance(self.config.rtc_config, Mapping):
            self.config.rtc_config = RTCConfig(**self.config.rtc_config)
        self.rtc_processor = None if self.config.rtc_config is None else RTCProcessor(self.config.rtc_config)
        if "expert" in self._modules:
            self.expert.rtc_processor = self.rtc_processor
            self.expert.config.rtc_config = self.config.rtc_config

    def select_action(self, batch: dict[str, Any], **given: Any) -> Tensor:
        """As in the base; not with real-time chunking, which needs whole chunks."""
        if self.config.rtc_config is not None and self.config.rtc_config.enabled:
            raise ValueError("with real-time chunking use predict_action_chunk, not select_action")
        return super().select_action(batch, **given)

    def prefix(self, batch: Mapping[str, Any]) -> Prefix:
        """Run the VLM over an observation, once; every layer's keys and values are kept."""
        from transformers import DynamicCache

        cache = DynamicCache()
        hidden, mask = self.backend.features(foundation_batch(self.config, batch), cache=cache)
        return Prefix(hidden, mask, cache)

    def _get_default_peft_targets(self) -> dict[str, Any]:
        names = "action_in_proj|action_out_proj|action_time_mlp_in|action_time_mlp_out"
        return {
            "target_modules": rf"(expert\.vlm_with_expert\.lm_expert\..*\.(q|v)_proj|expert\.({names}))",
            "modules_to_save": [],
        }
