"""`hlrp_vla_direct`: a backend predicts latents, codes or continuous ones; a decoder turns them into actions.

Shapes: B batch, P positions, K codes, D width of a continuous latent.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hlrp.errors import UserError
from hlrp.foundation.backends.interfaces import FoundationBatch, LatentOutput, LossOutput
from lerobot_policy_felix_bundle.policies.common.effect import Conditioned
from lerobot_policy_felix_bundle.policies.common.labels import VECTORS
from lerobot_policy_felix_bundle.policies.common.losses import Term
from lerobot_policy_felix_bundle.policies.common.meaning import spec_of
from lerobot_policy_felix_bundle.policies.common.observations import foundation_batch, newest_state
from lerobot_policy_felix_bundle.policies.common.policy import HLRPPolicy
from lerobot_policy_felix_bundle.policies.common.vlm import build_backend
from lerobot_policy_felix_bundle.policies.hlrp_vla_direct.code_decoder import CodeDecoder, VectorDecoder, read_vectors
from lerobot_policy_felix_bundle.policies.hlrp_vla_direct.configuration_hlrp_vla_direct import HLRPVLADirectConfig


class HLRPVLADirectPolicy(HLRPPolicy):
    """See `HLRPVLADirectConfig`; loss, chunks and queue are documented in `HLRPPolicy`.

    The decoder is trained on what the backend predicts, since it is given predictions at inference; at first on labels,
    if `true_latents` says so. Its loss does not reach the backend.
    """

    config_class = HLRPVLADirectConfig
    name = "hlrp_vla_direct"
    config: HLRPVLADirectConfig
    updates: Tensor
    _fsdp_wrap_modules: ClassVar[list[str]] = [
        "LlamaDecoderLayer",
        "SmolVLMEncoderLayer",
        "Qwen3VLTextDecoderLayer",
        "Qwen3VLVisionBlock",
    ]
    _no_split_modules: ClassVar[list[str]] = _fsdp_wrap_modules

    def __init__(self, config: HLRPVLADirectConfig, *, backbone_folder: Path | None = None, **options: Any) -> None:
        if backbone_folder is None:
            _follow_foundation(config)
        super().__init__(config, backbone_folder=backbone_folder, **options)

    def build(self, backbone_folder: Path | None) -> None:
        """The backend and the decoder."""
        config = self.config
        self.backend, _ = build_backend(config, backbone_folder, config.backend)
        self.spec = spec_of(config)
        sizes: dict[str, Any] = {
            "state_dim": config.state_dim,
            "chunk": (config.chunk_size, config.action_dim),
            "width": config.decoder_width,
            "layers": config.decoder_layers,
        }
        if config.predicts == "codes":
            vectors = self._vectors(restored=backbone_folder is not None)
            self.decoder: CodeDecoder | VectorDecoder = CodeDecoder(
                self.spec, config.decoder, code_dim=config.code_dim, **sizes
            )
            if vectors is not None:
                self.decoder.set_vectors(vectors)
        else:
            assert self.spec.vector_dim is not None, "taken from the foundation model"
            self.decoder = VectorDecoder(self.spec.positions, self.spec.vector_dim, **sizes)
        if config.true_latents:
            # Saved, so that a resumed run goes on with the schedule.
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def update(self) -> None:
        """Count an optimizer step; LeRobot's loop calls it."""
        if self.config.true_latents:
            self.updates += 1

    def begin_run(self, steps: int) -> None:
        """Take a run's length, by which the schedule of `true_latents` goes."""
        self.config.run_steps = steps

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

    def _shares(self, codes: Tensor | None, logits: Tensor | None) -> Tensor:
        """How much of each code the decoder is given, ``[B, P, K]``."""
        if logits is not None and self.config.decode_expectation:
            return logits.float().softmax(-1)
        if codes is None:
            assert logits is not None, "a backend predicts codes or logits"
            codes = logits.argmax(-1)
        return self._one_hot(codes)

    def _one_hot(self, codes: Tensor) -> Tensor:
        return nn.functional.one_hot(codes, self.spec.codebook_size).float()

    def _decodable(self, predicted: LatentOutput) -> Tensor:
        """What the decoder takes of a prediction: shares ``[B, P, K]``, or standardised latents ``[B, P, D]``."""
        if self.config.predicts == "codes":
            return self._shares(predicted.codes, predicted.logits)
        assert predicted.vectors is not None, "a backend predicts what its mode says"
        return self.backend.standardised(predicted.vectors)

    def terms(self, batch: Mapping[str, Any], **_: Any) -> dict[str, Term]:
        """Absolute error of the actions, and the backend's own loss of the latents."""
        actions, mask = self.supervised_actions(batch)
        codes, known = self.codes(batch, self.spec.positions)
        observed = foundation_batch(self.config, batch)
        vectors = self._true_vectors(batch, known)
        targets = replace(observed, target_codes=codes, target_vectors=vectors, target_mask=known)
        output = self.backend.loss_from_batch(targets)
        predicted = self._decodable(self._predicted(output, observed)).detach()
        given = self._shown(predicted, codes if vectors is None else vectors, known)
        losses = nn.functional.l1_loss(
            self.decoder(given, newest_state(self.config, batch)), actions.float(), reduction="none"
        )
        metrics = {}
        if vectors is None:
            right = 0.0 if output.logits is None else ((output.logits.argmax(-1) == codes) & known).sum()
            metrics["accuracy"] = torch.as_tensor(right, device=known.device) / known.sum().clamp(min=1)
        return {
            "action": self.action_term(losses, mask, batch, self.config.action_weight),
            "latent": Term(output.per_sample, output.supervised, self.config.latent_weight, metrics),
        }

    def _true_vectors(self, batch: Mapping[str, Any], known: Tensor) -> Tensor | None:
        """Continuous labels ``[B, P, D]``, 0 where there are none; None: codes are what is predicted."""
        if self.config.predicts == "codes":
            return None
        if VECTORS not in batch:
            return torch.zeros(*known.shape, self.spec.vector_dim or 0, device=known.device)
        return torch.where(known[..., None], batch[VECTORS], 0.0)

    def _predicted(self, output: LossOutput, observed: FoundationBatch) -> LatentOutput:
        """What is predicted for the batch at inference.

        A backend is asked for it anew where its loss says nothing of it, or what it does given labels.
        """
        given_labels = self.backend.one_by_one and self.backend.positions > 1
        if output.vectors is not None or (output.logits is not None and not given_labels):
            return LatentOutput(logits=output.logits, vectors=output.vectors)
        with torch.no_grad():
            return self.backend.latent_from_batch(observed)

    def _shown(self, predicted: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        """What the decoder is trained on: early in a run the labels, codes or vectors, where there are any."""
        if not (self.config.true_latents and self.training):
            return predicted
        true = self._one_hot(labels) if self.config.predicts == "codes" else self.backend.standardised(labels)
        early = self.updates < self.config.true_latents_updates
        return torch.where((known & early)[..., None], true, predicted)

    def predict_codes(self, batch: Mapping[str, Any]) -> Tensor:
        """The likeliest codes for a preprocessed observation, int64 ``[B, P]``.

        Raises:
            ValueError: It predicts continuous latents.
        """
        if self.config.predicts != "codes":
            raise ValueError(f"the policy predicts {self.config.predicts}, no codes")
        with torch.no_grad():
            codes = self.backend.latent_from_batch(foundation_batch(self.config, batch)).codes
        assert codes is not None, "a policy's backend has mode codes"
        return codes

    def chunk(self, batch: Mapping[str, Any], **_: Any) -> Tensor:
        """Predict latents, decode them."""
        predicted = self.backend.latent_from_batch(foundation_batch(self.config, batch))
        return self._in_space(batch, self.decoder(self._decodable(predicted), newest_state(self.config, batch)))

    def _in_space(self, batch: Mapping[str, Any], actions: Tensor) -> Tensor:
        """Actions ``[B, H, A]`` in each sample's own action space."""
        own = self.own_actions(batch, actions.device)
        return actions if own is None else actions * own[:, None]

    @property
    def conditioned_on_codes(self) -> bool:
        """Its actions are made from codes and the state alone."""
        return True

    def conditioned(self, batch: Mapping[str, Any], actions: Tensor, noise: Tensor, time: Tensor) -> Conditioned:
        """See `HLRPPolicy.conditioned`; the decoder has no use for noise."""
        predicted = self.backend.latent_from_batch(foundation_batch(self.config, batch))
        state = newest_state(self.config, batch)
        return Conditioned(
            codes=self._decodable(predicted),
            losses=lambda codes: (self._in_space(batch, self.decoder(codes, state)) - actions).abs(),
            sample=lambda codes: self._in_space(batch, self.decoder(codes, state)),
        )

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """The language model's queries and values, and the products of the heads and the decoder."""
        linear = {id(module): name for name, module in self.named_modules() if type(module) is nn.Linear}
        language = [module for part in self.backend.part("language") for module in part.modules()]
        heads = [module for part in (*self.backend.part("head"), self.decoder) for module in part.modules()]
        names = [linear.get(id(module), "") for module in language]
        attention = [name for name in names if name.endswith((".q_proj", ".v_proj"))]
        return {
            "target_modules": [*attention, *(linear[id(module)] for module in heads if id(module) in linear)],
            "modules_to_save": [],
        }


def _follow_foundation(config: HLRPVLADirectConfig) -> None:
    """Have a fresh policy predict what the foundation model predicts that it starts from.

    Raises:
        UserError: Something else is asked for.
    """
    if config.init_from is None:
        if config.predicts != "codes":
            raise UserError(
                f"latent_mode is {config.predicts}, and there is no foundation model whose statistics standardise them",
                where="policy.latent_mode, policy.init_from",
                fix=f"train one with model.mode={config.predicts} and give it with --init-from, or leave it out",
            )
        return
    from hlrp.foundation.checkpoint import read_manifest

    found = read_manifest(Path(config.init_from)).config
    if config.latent_mode not in (None, found.mode.value):
        raise UserError(
            f"latent_mode is {config.latent_mode}, the foundation model predicts {found.mode.value}",
            where="policy.latent_mode, policy.init_from",
            fix="leave latent_mode out",
        )
    config.latent_mode = found.mode.value
    if config.predicts == "codes":
        return
    config.vector_dim = found.spec.vector_dim
    if config.decoder != "mlp":
        raise UserError(
            f"decoder {config.decoder!r} embeds codes, the foundation model predicts {found.mode.value}",
            where="policy.decoder",
            fix="leave it out: the latents themselves are decoded",
        )
