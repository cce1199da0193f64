"""The policies whose actions come from LeRobot's flow-matching expert over a SmolVLM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import Tensor, nn

from hlrp.compiled import blocks_of, compile_blocks
from hlrp.foundation.backends.interfaces import PrefixBackend
from lerobot_policy_felix_bundle.policies.common.expert import ActionExpert, Prefix
from lerobot_policy_felix_bundle.policies.common.expert_configuration import HLRPExpertConfig
from lerobot_policy_felix_bundle.policies.common.observations import foundation_batch
from lerobot_policy_felix_bundle.policies.common.policy import HLRPPolicy
from lerobot_policy_felix_bundle.policies.common.vlm import build_backend

EXPERT_BACKEND = "smol_latent_head"
"""LeRobot's expert has SmolVLM's layers."""


class ExpertPolicy(HLRPPolicy):
    """Base of the two action-expert policies."""

    config_class = HLRPExpertConfig
    name = "hlrp_expert_policy"
    config: HLRPExpertConfig
    backend: PrefixBackend

    def build(self, backbone_folder: Path | None) -> None:
        """The VLM and the expert."""
        self.rtc_processor: RTCProcessor | None = None
        self.init_rtc_processor()
        backend, folder = build_backend(self.config, backbone_folder, EXPERT_BACKEND)
        assert isinstance(backend, PrefixBackend)
        self.backend = backend
        self.expert = ActionExpert(self.config, backend.vlm, folder, self.rtc_processor)
        if self.config.compile_model:
            compile_blocks(self, where="policy.compile_model")
            self.expert.compile(dynamic=False, mode=self.config.compile_mode)

    def blocks_to_compile(self) -> list[nn.Module]:
        """The layers of the picture encoder; the language model and the expert as a whole.

        The layers of these two read and write a cache by their numbers: each would be compiled for itself.
        """
        return [*blocks_of(self.backend.vlm.vision_model), self.backend.vlm.text_model, self.expert]

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
        return Prefix(hidden, mask, cache, self.own_actions(batch, mask.device))

    def observe(self, batch: Mapping[str, Any]) -> tuple[Prefix, Tensor | None]:
        """What a chunk is made from, by one pass of the VLM: the prefix, and condition tokens if there are any."""
        return self.prefix(batch), None

    def chunk(self, batch: Mapping[str, Any], **given: Any) -> Tensor:
        """Denoise a chunk over what is observed."""
        return self.expert.sample(*self.observe(batch), **given)

    def encoded(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What `observe` gives as tensors by name, for `velocity`: an exported policy keeps them between its graphs."""
        prefix, condition = self.observe(batch)
        return prefix.tensors() | ({} if condition is None else {"condition": condition})

    def velocity(self, encoded: Mapping[str, Tensor], noisy: Tensor, time: Tensor) -> Tensor:
        """The flow at ``noisy`` ``[B, H, A]`` and ``time`` ``[B]``, given what `encoded` gave."""
        return self.expert.forward(encoded, noisy, time)

    def _get_default_peft_targets(self) -> dict[str, Any]:
        names = "action_in_proj|action_out_proj|action_time_mlp_in|action_time_mlp_out"
        return {
            "target_modules": rf"(expert\.vlm_with_expert\.lm_expert\..*\.(q|v)_proj|expert\.({names}))",
            "modules_to_save": [],
        }
