# Made by scripts/make_policy_classes.py: run it, do not edit.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.utils.sample_weighting import SampleWeighter

from hlrp.policies.clean import CleanPolicy

class VQBeT(CleanPolicy):
    def __init__(
        self,
        *,
        n_obs_steps: int = 5,
        input_features: Mapping[str, PolicyFeature | Mapping[str, Any]] | None = {},
        output_features: Mapping[str, PolicyFeature | Mapping[str, Any]] | None = {},
        device: str | None = None,
        use_amp: bool = False,
        use_peft: bool = False,
        push_to_hub: bool = True,
        repo_id: str | None = None,
        private: bool | None = None,
        tags: Sequence[str] | None = None,
        license: str | None = None,
        pretrained_path: Path | str | None = None,
        pretrained_revision: str | None = None,
        n_action_pred_token: int = 3,
        action_chunk_size: int = 5,
        normalization_mapping: Mapping[str, NormalizationMode | str] = {
            "VISUAL": "IDENTITY",
            "STATE": "MIN_MAX",
            "ACTION": "MIN_MAX",
        },
        vision_backbone: str = "resnet18",
        crop_shape: tuple[int, int] | None = (84, 84),
        crop_is_random: bool = True,
        pretrained_backbone_weights: str | None = "ResNet18_Weights.IMAGENET1K_V1",
        use_group_norm: bool = False,
        spatial_softmax_num_keypoints: int = 32,
        n_vqvae_training_steps: int = 20000,
        vqvae_n_embed: int = 16,
        vqvae_embedding_dim: int = 256,
        vqvae_enc_hidden_dim: int = 128,
        gpt_block_size: int = 500,
        gpt_input_dim: int = 512,
        gpt_output_dim: int = 512,
        gpt_n_layer: int = 8,
        gpt_n_head: int = 8,
        gpt_hidden_dim: int = 512,
        dropout: float = 0.1,
        offset_loss_weight: float = 10000.0,
        primary_code_loss_weight: float = 5.0,
        secondary_code_loss_weight: float = 0.5,
        bet_softmax_temperature: float = 0.1,
        sequentially_select: bool = False,
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[Any, ...] = (0.95, 0.999),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 1e-06,
        optimizer_vqvae_lr: float = 0.001,
        optimizer_vqvae_weight_decay: float = 0.0001,
        scheduler_warmup_steps: int = 500,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 1e-06,
        hidden_dim: int = 512,
        chunk_size: int = 5,
        codebook_size: int = 16,
        backbone: str = "resnet18",
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: SampleWeighter | None = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...
