"""Configuration of `hlrp_action_expert_latent`."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig

from lerobot_policy_felix_bundle.policies.common.configuration import HLRPExpertConfig

CONDITIONING = ("tokens", "suffix")


@PreTrainedConfig.register_subclass("hlrp_action_expert_latent")
@dataclass
class HLRPActionExpertLatentConfig(HLRPExpertConfig):
    """A flow-matching action expert that knows latent codes: the label's in training, the VLM's own at inference.

    Args:
        conditioning: `tokens`: the codes are extra tokens that the actions attend to; `suffix`: the expert predicts
            them from queries of its own beside the actions, and inference needs none.
        condition_dropout: Share of samples that are trained without codes.
        own_codes: Share of the others, at the end of `own_codes_steps`, that get the VLM's own prediction in place of
            the label; it grows from 0 linearly.
        own_codes_steps: Updates until then.
    """

    conditioning: str = "tokens"
    condition_dropout: float = 0.1
    own_codes: float = 0.5
    own_codes_steps: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conditioning not in CONDITIONING:
            raise ValueError(f"conditioning is {self.conditioning!r}; choose from {', '.join(CONDITIONING)}")
        for name in ("condition_dropout", "own_codes"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, which is not between 0 and 1")
        if self.own_codes_steps < 1:
            raise ValueError(f"own_codes_steps is {self.own_codes_steps}, it must be positive")
