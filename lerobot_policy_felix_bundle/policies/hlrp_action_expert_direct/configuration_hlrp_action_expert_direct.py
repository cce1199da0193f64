"""Configuration of `hlrp_action_expert_direct`."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig

from lerobot_policy_felix_bundle.policies.common.expert_configuration import HLRPExpertConfig


@PreTrainedConfig.register_subclass("hlrp_action_expert_direct")
@dataclass
class HLRPActionExpertDirectConfig(HLRPExpertConfig):
    """A flow-matching action expert on image, state and language; no latents anywhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent_source != "none":
            raise ValueError(
                "this policy has no use for latent labels (latent_table, latent_laq): use hlrp_action_expert_latent"
            )

    @property
    def uses_latents(self) -> bool:
        """It has nothing to do with codes."""
        return False
