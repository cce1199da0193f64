# Made by scripts/make_policy_classes.py: run it, do not edit.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.sample_weighting import SampleWeighter

from hlrp.policies.clean import CleanPolicy

class Pi0Fast(CleanPolicy):
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
        paligemma_variant: str = "gemma_2b",
        action_expert_variant: str = "gemma_300m",
        dtype: str = "float32",
        chunk_size: int = 50,
        n_action_steps: int = 50,
        max_state_dim: int = 32,
        max_action_dim: int = 32,
        max_action_tokens: int = 256,
        use_relative_actions: bool = False,
        relative_exclude_joints: Sequence[str] = ["gripper"],
        action_feature_names: Sequence[str] | None = None,
        rtc_config: RTCConfig | Mapping[str, Any] | None = None,
        image_resolution: tuple[int, int] = (224, 224),
        empty_cameras: int = 0,
        tokenizer_max_length: int = 200,
        text_tokenizer_name: str = "google/paligemma-3b-pt-224",
        action_tokenizer_name: str = "lerobot/fast-action-tokenizer",
        temperature: float = 0.0,
        max_decoding_steps: int = 256,
        fast_skip_tokens: int = 128,
        validate_action_token_prefix: bool = True,
        use_kv_cache: bool = True,
        normalization_mapping: Mapping[str, NormalizationMode | str] = {
            "VISUAL": "IDENTITY",
            "STATE": "MEAN_STD",
            "ACTION": "MEAN_STD",
        },
        gradient_checkpointing: bool = False,
        compile_model: bool = False,
        compile_mode: str = "max-autotune",
        optimizer_lr: float = 2.5e-05,
        optimizer_betas: tuple[float, float] = (0.9, 0.95),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 0.01,
        optimizer_grad_clip_norm: float = 1.0,
        scheduler_warmup_steps: int = 1000,
        scheduler_decay_steps: int = 30000,
        scheduler_decay_lr: float = 2.5e-06,
        learning_rate: float = 2.5e-05,
        lr: float = 2.5e-05,
        weight_decay: float = 0.01,
        action_horizon: int = 50,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: SampleWeighter | None = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...
