"""`hlrp_vla_direct`: a backend predicts latent codes, a decoder turns them into actions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lerobot.utils.constants import OBS_STATE
from torch import Tensor, nn

from hlrp.errors import UserError
from hlrp.foundation.backends.interfaces import FoundationBatch, LossOutput
from lerobot_policy_felix_bundle.policies.common.losses import Term
from lerobot_policy_felix_bundle.policies.common.meaning import spec_of
from lerobot_policy_felix_bundle.policies.common.observations import foundation_batch
from lerobot_policy_felix_bundle.policies.common.policy import HLRPPolicy
from lerobot_policy_felix_bundle.policies.common.vlm import build_backend
from lerobot_policy_felix_bundle.policies.hlrp_vla_direct.code_decoder import CodeDecoder, read_vectors
from lerobot_policy_felix_bundle.policies.hlrp_vla_direct.configuration_hlrp_vla_direct import HLRPVLADirectConfig


class HLRPVLADirectPolicy(HLRPPolicy):
    """See `HLRPVLADirectConfig`; loss, chunks and queue are documented in `HLRPPolicy`.

    The decoder is trained on what the backend predicts, not on labels, since it is given predictions at inference; its
    loss does not reach the backend.
    """

    config_class = HLRPVLADirectConfig
    name = "hlrp_vla_direct"
    config: HLRPVLADirectConfig
    _fsdp_wrap_modules: ClassVar[list[str]] = [
        "LlamaDecoderLayer",
        "SmolVLMEncoderLayer",
        "Qwen3VLTextDecoderLayer",
        "Qwen3VLVisionBlock",
    ]
    _no_split_modules: ClassVar[list[str]] = _fsdp_wrap_modules

    def build(self, backbone_folder: Path | None) -> None:
        """The backend and the decoder."""
        config = self.config
        self.backend, _ = build_backend(config, backbone_folder, config.backend)
        vectors = self._vectors(restored=backbone_folder is not None)
        self.spec = spec_of(config)
        self.decoder = CodeDecoder(
            self.spec,
            config.decoder,
            code_dim=config.code_dim,
            state_dim=config.state_dim,
            chunk=(config.chunk_size, config.action_dim),
            width=config.decoder_width,
            layers=config.decoder_layers,
        )
        if vectors is not None:
            self.decoder.set_vectors(vectors)

    def _vectors(self, *, restored: bool) -> Tensor | None:
        config = self.config
        if config.decoder == "mlp" or restored:
            return None
        path = config.decoder_laq or config.latent_laq
        if path is None:
            raise UserError(
                f"decoder {config.decoder!r} takes code vectors from the quantizer, and none is given",
                where="policy.decoder_laq",
                fix="give the run of the quantizer that made the labels, or use --policy.decoder=mlp",
            )
        vectors = read_vectors(Path(path), str(config.laq_sha256))
        config.code_dim = vectors.shape[-1]
        return vectors

    def _state(self, batch: Mapping[str, Any]) -> Tensor | None:
        if self.config.state_dim is None:
            return None
        state: Tensor = batch[OBS_STATE]
        return state[:, -1] if state.ndim == 3 else state

    def _shares(self, codes: Tensor | None, logits: Tensor | None) -> Tensor:
        """How much of each code the decoder is given, ``[B, P, K]``."""
        if logits is not None and self.config.decode_expectation:
            return logits.float().softmax(-1)
        if codes is None:
            assert logits is not None, "a backend predicts codes or logits"
            codes = logits.argmax(-1)
        return nn.functional.one_hot(codes, self.spec.codebook_size).float()

    def terms(self, batch: Mapping[str, Any], **_: Any) -> dict[str, Term]:
        """Absolute error of the actions, and the backend's own loss of the codes."""
        actions, mask = self.supervised_actions(batch)
        codes, known = self.codes(batch, self.spec.positions)
        observed = foundation_batch(self.config, batch)
        output = self.backend.loss_from_batch(replace(observed, target_codes=codes, target_mask=known))
        decoded = self.decoder(self._shares(None, self._logits(output, observed)).detach(), self._state(batch))
        losses = nn.functional.l1_loss(decoded, actions.float(), reduction="none")
        right = 0.0 if output.logits is None else ((output.logits.argmax(-1) == codes) & known).sum()
        accuracy = torch.as_tensor(right, device=known.device) / known.sum().clamp(min=1)
        return {
            "action": self.action_term(losses, mask, batch, self.config.action_weight),
            "latent": Term(output.per_sample, output.supervised, self.config.latent_weight, {"accuracy": accuracy}),
        }

    def _logits(self, output: LossOutput, observed: FoundationBatch) -> Tensor:
        """What was predicted for the batch. Of a backend that says nothing beside its loss it is asked for anew."""
        if output.logits is not None:
            return output.logits
        with torch.no_grad():
            predicted = self.backend.latent_from_batch(observed)
        if predicted.logits is not None:
            return predicted.logits
        assert predicted.codes is not None, "a backend predicts codes or logits"
        return nn.functional.one_hot(predicted.codes, self.spec.codebook_size).float().log()

    def predict_codes(self, batch: Mapping[str, Any]) -> Tensor:
        """The likeliest codes for a preprocessed observation, int64 ``[B, P]``."""
        with torch.no_grad():
            codes = self.backend.latent_from_batch(foundation_batch(self.config, batch)).codes
        assert codes is not None, "a policy's backend has mode codes"
        return codes

    def chunk(self, batch: Mapping[str, Any], **_: Any) -> Tensor:
        """Predict codes, decode them."""
        predicted = self.backend.latent_from_batch(foundation_batch(self.config, batch))
        chunk: Tensor = self.decoder(self._shares(predicted.codes, predicted.logits), self._state(batch))
        return chunk
