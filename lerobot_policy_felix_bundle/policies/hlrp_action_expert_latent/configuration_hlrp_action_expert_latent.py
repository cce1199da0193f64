"""Configuration of `hlrp_action_expert_latent`."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig

from lerobot_policy_felix_bundle.policies.common.expert_configuration import HLRPExpertConfig

CONDITIONING = ("bottleneck", "tokens", "suffix")
PREFIXES = ("none", "kept")
_WARMUP = 0.5


@PreTrainedConfig.register_subclass("hlrp_action_expert_latent")
@dataclass
class HLRPActionExpertLatentConfig(HLRPExpertConfig):
    """A flow-matching action expert that knows latent codes: the label's in training, the VLM's own at inference.

    Args:
        conditioning: `bottleneck`: the actions see the codes and the state in every layer, and of the observation no
            more than `bottleneck_prefix`; `tokens`: the codes are extra tokens beside the whole observation, which the
            actions learn to do without; `suffix`: the expert predicts them from queries of its own beside the actions,
            and inference needs none.
        bottleneck_prefix: With `bottleneck`, what the actions see of the observation beside codes and state: `none`,
            or `kept`, all of it but where it is dropped.
        prefix_dropout: With `kept`, share of samples that are trained without it.
        condition_dropout: Share of samples that are trained without codes.
        soft_codes: Give the expert the expected embedding under the VLM's prediction in place of the likeliest codes';
            None: with `bottleneck`.
        own_codes: Share of the samples that get the VLM's own prediction in place of the label, in the end; it grows
            from 0 linearly.
        own_codes_warmup: Until when it grows, as a share of the run's steps.
        run_steps: Steps of the run; `hlrp train` fills it in. None: `scheduler_decay_steps`.
        own_codes_steps: Deprecated: the updates until then, in place of `own_codes_warmup`.
        expert_grad_to_vlm: Whether the loss of the actions trains the VLM; None: not with `bottleneck`.
    """

    conditioning: str = "bottleneck"
    bottleneck_prefix: str = "none"
    prefix_dropout: float = 0.5
    condition_dropout: float = 0.0
    soft_codes: bool | None = None
    own_codes: float = 1.0
    own_codes_warmup: float = _WARMUP
    run_steps: int | None = None
    own_codes_steps: int | None = None
    expert_grad_to_vlm: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("conditioning", CONDITIONING), ("bottleneck_prefix", PREFIXES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(choices)}")
        for name in ("condition_dropout", "own_codes", "own_codes_warmup", "prefix_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, which is not between 0 and 1")
        for name in ("own_codes_steps", "run_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be positive")
        if self.own_codes_steps is not None and self.own_codes_warmup != _WARMUP:
            raise ValueError("own_codes_steps and own_codes_warmup exclude each other; use own_codes_warmup")
        self._check_conditioning()

    def _check_conditioning(self) -> None:
        if self.conditioning == "bottleneck":
            if self.self_attn_every_n_layers not in (None, 1):
                raise ValueError(
                    f"self_attn_every_n_layers is {self.self_attn_every_n_layers}, but with conditioning=bottleneck "
                    "every layer sees the codes, which is 1: leave it out"
                )
            if self.bottleneck_prefix == "none" and self.expert_grad_to_vlm:
                raise ValueError("expert_grad_to_vlm is true, but with bottleneck_prefix=none nothing leads to the VLM")
        elif self.bottleneck_prefix != "none":
            raise ValueError(f"bottleneck_prefix has no meaning with conditioning={self.conditioning}: leave it out")
        if self.conditioning == "suffix" and self.expert_grad_to_vlm is False:
            raise ValueError("with conditioning=suffix the VLM learns through the expert alone: use vlm=frozen instead")

    @property
    def state_beside_vlm(self) -> bool:
        """Behind the bottleneck the state is a token beside the codes."""
        return self.conditioning == "bottleneck"

    @property
    def self_attention_interval(self) -> int:
        """One of so many layers sees the tokens beside it; the others see the VLM alone."""
        return 1 if self.conditioning == "bottleneck" else super().self_attention_interval

    @property
    def gives_soft_codes(self) -> bool:
        """`soft_codes`, None resolved."""
        return self.conditioning == "bottleneck" if self.soft_codes is None else self.soft_codes

    @property
    def trains_vlm_by_actions(self) -> bool:
        """`expert_grad_to_vlm`, None resolved."""
        return self.conditioning != "bottleneck" if self.expert_grad_to_vlm is None else self.expert_grad_to_vlm

    @property
    def own_codes_updates(self) -> float:
        """Updates until `own_codes` is reached; 0: from the first."""
        if self.own_codes_steps is not None:
            return self.own_codes_steps
        return self.own_codes_warmup * (self.run_steps or self.scheduler_decay_steps)
