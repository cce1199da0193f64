"""Configuration of `hlrp_vla_direct`."""

from dataclasses import dataclass
from typing import Any

from lerobot.configs.policies import PreTrainedConfig

from hlrp.foundation.backends.registry import BACKENDS, DEFAULT_BACKEND
from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig

DECODERS = ("mlp", "laq", "both")
MODES = ("codes", "vectors", "flow")


@PreTrainedConfig.register_subclass("hlrp_vla_direct")
@dataclass
class HLRPVLADirectConfig(HLRPPolicyConfig):
    """A vision-language model that predicts latent codes, and a decoder from codes to actions.

    Args:
        backend: Which foundation backend predicts the codes.
        decoder: `mlp`: from learned embeddings of the codes; `laq`: from the quantizer's own code vectors, which are
            kept with the policy; `both`: from both. All of them also read the state, if there is one.
        decoder_laq: Run of the quantizer that `laq` and `both` take the vectors from; None: `latent_laq`.
        code_dim: Width of these vectors; filled in.
        latent_mode: What the backend predicts: `codes`, or, continuous, `vectors` or `flow`; None: what the foundation
            model of `init_from` does, without one codes. The continuous ones need such a model, and the decoder `mlp`.
        vector_dim: Width of continuous latents; filled in.
        decoder_width: Width of the decoder's hidden layers.
        decoder_layers: Their number.
        decode_expectation: Decode the expected embedding under the predicted distribution, where the backend gives
            one, instead of the likeliest codes'.
        true_latents: Share of the run, at its beginning, in which the decoder is given the labels' latents where there
            are any; from then on, as at inference, those that the backend predicts. Needs labels.
        run_steps: Steps of the run; `hlrp train` fills it in. None: `scheduler_decay_steps`.
        action_weight: Weight of the loss of the actions.
    """

    backend: str = DEFAULT_BACKEND
    decoder: str = "mlp"
    decoder_laq: str | None = None
    code_dim: int | None = None
    latent_mode: str | None = None
    vector_dim: int | None = None
    decoder_width: int = 256
    decoder_layers: int = 2
    decode_expectation: bool = True
    true_latents: float = 0.0
    run_steps: int | None = None
    action_weight: float = 1.0
    latent_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend not in BACKENDS:
            raise ValueError(f"backend is {self.backend!r}; choose from {', '.join(BACKENDS)}")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder is {self.decoder!r}; choose from {', '.join(DECODERS)}")
        if self.decoder_width < 1 or self.decoder_layers < 1:
            raise ValueError("decoder_width and decoder_layers must be positive")
        if self.latent_mode not in (None, *MODES):
            raise ValueError(f"latent_mode is {self.latent_mode!r}; choose from {', '.join(MODES)}")
        if self.predicts != "codes" and self.decoder != "mlp":
            raise ValueError(
                f"decoder is {self.decoder!r}, which embeds codes; with latent_mode={self.predicts} use mlp"
            )
        if not 0 <= self.true_latents <= 1:
            raise ValueError(f"true_latents is {self.true_latents}, which is not between 0 and 1")
        if self.run_steps is not None and self.run_steps < 1:
            raise ValueError(f"run_steps is {self.run_steps}, it must be positive")
        if self.true_latents and self.latent_source == "none":
            raise ValueError("true_latents needs labels: give latent_table or latent_laq, or leave it out")

    @property
    def state_beside_vlm(self) -> bool:
        """The decoder reads the state."""
        return True

    @property
    def predicts(self) -> str:
        """`latent_mode`, None resolved."""
        return self.latent_mode or "codes"

    @property
    def true_latents_updates(self) -> float:
        """Updates of the run that `true_latents` covers."""
        return self.true_latents * (self.run_steps or self.scheduler_decay_steps)

    def code_fields(self) -> dict[str, Any]:
        """With the width of continuous latents, where they are what is predicted."""
        return super().code_fields() | ({} if self.vector_dim is None else {"vector_dim": self.vector_dim})
