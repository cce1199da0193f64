"""The vision-language model of a policy: built from a backbone, a foundation model or a checkpoint's own files."""

from pathlib import Path

import torch
from lerobot.configs.types import NormalizationMode

from hlrp.errors import UserError
from hlrp.foundation.backbones import resolve_backbone
from hlrp.foundation.backends.interfaces import BackendMode, VLABackend
from hlrp.foundation.backends.registry import backend_class
from hlrp.foundation.config import BackendConfig
from hlrp.foundation.trainable import Adapters, choose_trainable
from hlrp.latents import CodeSpec
from lerobot_policy_felix_bundle.policies.common.configuration import TINY, HLRPPolicyConfig
from lerobot_policy_felix_bundle.policies.common.meaning import spec_of

# A policy without codes builds the same backend and drops the head that would predict these.
_NO_CODES = CodeSpec(codebook_size=2, code_seq_len=1, num_frames=2, offset_seconds=1.0, laq_sha256="none")


def build_backend(config: HLRPPolicyConfig, restored: Path | None, backend: str) -> tuple[VLABackend, Path]:
    """The backend that a policy's configuration asks for, its parts frozen, trained or given adapters.

    Args:
        config: The policy's configuration.
        restored: A checkpoint's folder of backbone files, whose weights follow; None: a fresh policy.
        backend: Name of the backend.

    Returns:
        The backend, and the folder of its backbone.

    Raises:
        UserError: There is no such backbone, or the foundation model of ``init_from`` does not fit.
    """
    foundation = _Foundation(config.init_from, backend) if config.init_from is not None and restored is None else None
    if restored is not None:
        folder = restored
    elif foundation is not None:
        folder = foundation.backbone(config)
    else:
        folder = resolve_backbone(config.backbone, backend, allow_download=config.allow_download)
    built = backend_class(backend).from_backbone(
        _backend_config(config, backend), folder, weights=restored is None and foundation is None
    )
    if foundation is not None:
        foundation.load_into(built, with_head=config.uses_latents)
    choose_trainable(
        built,
        vision=config.trains_vision,
        language=config.vlm_mode != "frozen",
        adapters=Adapters(config.lora_rank, config.lora_alpha, config.lora_targets)
        if config.vlm_mode == "lora"
        else None,
    )
    _cast(built, config)
    return built, folder


def _backend_config(config: HLRPPolicyConfig, backend: str) -> BackendConfig:
    return BackendConfig(
        backend=backend,
        mode=BackendMode(config.predicts),
        spec=spec_of(config) if config.uses_latents else _NO_CODES,
        cameras=config.cameras,
        image_size=config.image_size,
        state_dim=None if config.vlm_state is False else config.state_dim,
        max_text_tokens=config.max_text_tokens,
        layers=config.vlm_layers,
    )


def _cast(backend: VLABackend, config: HLRPPolicyConfig) -> None:
    """Keep what is not trained of the VLM in ``vlm_dtype``; `auto` becomes, in ``config``, what it stands for."""
    if config.vlm_dtype == "auto":
        pretrained = config.backbone != TINY and config.vlm_mode != "cotrained"
        config.vlm_dtype = "bfloat16" if pretrained and backend.keeps_bfloat16 else "float32"
    if config.vlm_dtype == "float32":
        return
    if not backend.keeps_bfloat16:
        raise UserError(
            f"backend {backend.config.backend} keeps its weights in float32",
            where="policy.vlm_dtype",
            fix="leave it out; mixed precision is --precision bf16",
        )
    for part in ("vision", "language"):
        for module in backend.part(part):
            for parameter in module.parameters():
                if not parameter.requires_grad:  # adapters are trained
                    parameter.data = parameter.data.to(torch.bfloat16)


class _Foundation:
    """A foundation model that a policy starts from."""

    def __init__(self, path: str, backend: str) -> None:
        from hlrp.foundation.checkpoint import find_model, read_manifest

        self.path = find_model(Path(path))
        self.manifest = read_manifest(self.path)
        if self.manifest.config.backend != backend:
            raise UserError(
                f"the foundation model has backend {self.manifest.config.backend}, the policy needs {backend}",
                where="policy.init_from",
                fix="use a foundation model of that backend",
            )

    def backbone(self, config: HLRPPolicyConfig) -> Path:
        """Its backbone files; also writes into ``config`` what its weights decide."""
        from hlrp.foundation.checkpoint import BACKBONE

        theirs = self.manifest.config
        if config.uses_latents and theirs.mode.value != config.predicts:
            raise UserError(
                f"the foundation model predicts {theirs.mode.value}, policy {config.type!r} needs {config.predicts}",
                where="policy.init_from",
                fix=f"use a foundation model trained with mode={config.predicts}, or hlrp_vla_direct, which takes any",
            )
        if config.vlm_layers not in (None, theirs.layers):
            raise UserError(
                f"the foundation model has {theirs.layers or 'all'} language layers, the policy asks for "
                f"{config.vlm_layers}",
                where="policy.vlm_layers",
                fix="leave it out",
            )
        if config.max_text_tokens not in (type(config).max_text_tokens, theirs.max_text_tokens):
            raise UserError(
                f"the foundation model reads up to {theirs.max_text_tokens} tokens of an instruction, the policy asks "
                f"for {config.max_text_tokens}",
                where="policy.max_text_tokens",
                fix="leave it out",
            )
        self._agree_on_state(config)
        config.vlm_layers, config.max_text_tokens = theirs.layers, theirs.max_text_tokens
        config.backbone = self.manifest.backbone.name
        if config.image_size is None:
            config.image_size = theirs.image_size
        return self.path / BACKBONE

    def _agree_on_state(self, config: HLRPPolicyConfig) -> None:
        """Refuse a state that its weights do not read; else write into ``config`` who reads it, and normalised how."""
        theirs, known = self.manifest.config, self.manifest.statistics
        if theirs.state_dim is None:
            if config.vlm_state is None:
                # A token that a frozen model never saw would only change what it says.
                config.vlm_state = config.vlm_mode != "frozen" or not config.state_beside_vlm
            return
        if config.vlm_state is False:
            raise UserError(
                "the foundation model reads the state, and vlm_state is false",
                where="policy.vlm_state, policy.init_from",
                fix="leave it out",
            )
        if theirs.state_dim != config.state_dim:
            raise UserError(
                f"the foundation model reads a state of width {theirs.state_dim}, the policy {config.state_dim}",
                where="policy.use_state, policy.init_from",
                fix="use the dataset that the foundation model was trained on, or one without state",
            )
        if (mode := config.normalization_mapping.get("STATE")) is not NormalizationMode.MEAN_STD:
            raise UserError(
                f"the foundation model reads the state by its mean and deviation, the policy normalises it by {mode}",
                where="policy.normalization_mapping, policy.init_from",
                fix="leave it out",
            )
        config.vlm_state = True
        if known.state_mean is not None and known.state_std is not None:
            config.state_statistics = {"mean": known.state_mean, "std": known.state_std}

    def load_into(self, backend: VLABackend, *, with_head: bool) -> None:
        """Load its weights; only a head that is dropped, and the projection of a state that it lacks, may differ.

        Raises:
            UserError: Anything else differs.
        """
        from safetensors.torch import load_file

        from hlrp.foundation.checkpoint import split_tied
        from hlrp.runs.model_folder import WEIGHTS, check_state

        stored = load_file(self.path / WEIGHTS)
        expected, tied = split_tied(backend.state_dict())
        dropped = () if with_head else backend.latent_weights
        lacking = backend.state_weights if self.manifest.config.state_dim is None else ()
        own = {n for n in expected if n.startswith((*dropped, *lacking))}
        stored = {n: v for n, v in stored.items() if not n.startswith(dropped)}
        check_state(stored, {n: v for n, v in expected.items() if n not in own}, str(self.path / WEIGHTS))
        state = stored | {n: expected[n] for n in own}
        backend.load_state_dict(state | {name: state[owner] for name, owner in tied.items()}, strict=True)
