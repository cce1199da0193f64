"""Configuration of `hlrp_vla_direct`."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig

from hlrp.foundation.backends.registry import BACKENDS, DEFAULT_BACKEND
from lerobot_policy_felix_bundle.policies.common.configuration import HLRPPolicyConfig

DECODERS = ("mlp", "laq", "both")


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
        decoder_width: Width of the decoder's hidden layers.
        decoder_layers: Their number.
        decode_expectation: Decode the expected embedding under the predicted distribution, where the backend gives
            one, instead of the likeliest codes'.
        action_weight: Weight of the loss of the actions.
    """

    backend: str = DEFAULT_BACKEND
    decoder: str = "mlp"
    decoder_laq: str | None = None
    code_dim: int | None = None
    decoder_width: int = 256
    decoder_layers: int = 2
    decode_expectation: bool = True
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
