# Made by scripts/make_policy_classes.py: run it, do not edit.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.utils.sample_weighting import SampleWeighter

from hlrp.policies.clean import CleanPolicy

class WallX(CleanPolicy):
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
        chunk_size: int = 32,
        n_action_steps: int = 32,
        max_action_dim: int = 20,
        max_state_dim: int = 20,
        normalization_mapping: Mapping[str, NormalizationMode | str] = {
            "VISUAL": "IDENTITY",
            "STATE": "MEAN_STD",
            "ACTION": "MEAN_STD",
        },
        pretrained_name_or_path: str = "x-square-robot/wall-oss-flow",
        action_tokenizer_path: str | None = "lerobot/fast-action-tokenizer",
        prediction_mode: str = "diffusion",
        attn_implementation: str = "eager",
        vision_attn_implementation: str = "auto",
        optimizer_lr: float = 2e-05,
        optimizer_betas: tuple[float, float] = (0.9, 0.95),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 0.01,
        optimizer_grad_clip_norm: float = 1.0,
        scheduler_warmup_steps: int = 1000,
        scheduler_decay_steps: int = 100000,
        scheduler_decay_lr: float = 1e-06,
        learning_rate: float = 2e-05,
        lr: float = 2e-05,
        weight_decay: float = 0.01,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: SampleWeighter | None = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...
