# Made by scripts/make_policy_classes.py: run it, do not edit.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.utils.sample_weighting import SampleWeighter

from hlrp.policies.clean import CleanPolicy

class EO1(CleanPolicy):
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
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
        vlm_base: str = "Qwen/Qwen2.5-VL-3B-Instruct",
        vlm_config: Mapping[str, Any] | None = None,
        image_min_pixels: int | None = 50176,
        image_max_pixels: int | None = 100352,
        use_fast_processor: bool = False,
        chunk_size: int = 8,
        n_action_steps: int = 8,
        max_state_dim: int = 32,
        max_action_dim: int = 32,
        num_denoise_steps: int = 10,
        num_action_layers: int = 2,
        action_act: str = "linear",
        time_sampling_beta_alpha: float = 1.5,
        time_sampling_beta_beta: float = 1.0,
        time_sampling_scale: float = 0.999,
        time_sampling_offset: float = 0.001,
        min_period: float = 0.004,
        max_period: float = 4.0,
        supervise_padding_action_dims: bool = True,
        supervise_padding_actions: bool = True,
        dtype: str = "auto",
        force_fp32_autocast: bool = True,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        normalization_mapping: Mapping[str, NormalizationMode | str] = {
            "VISUAL": "IDENTITY",
            "STATE": "MEAN_STD",
            "ACTION": "MEAN_STD",
        },
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[float, float] = (0.9, 0.999),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 0.1,
        optimizer_grad_clip_norm: float = 1.0,
        scheduler_warmup_steps: int = 900,
        scheduler_decay_steps: int = 30000,
        scheduler_decay_lr: float = 0.0,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 0.1,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: SampleWeighter | None = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...
