# Made by scripts/make_policy_classes.py: run it, do not edit.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.utils.sample_weighting import SampleWeighter

from hlrp.policies.clean import CleanPolicy

class TDMPC(CleanPolicy):
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
        n_action_repeats: int = 2,
        horizon: int = 5,
        n_action_steps: int = 1,
        normalization_mapping: Mapping[str, NormalizationMode | str] = {
            "VISUAL": "IDENTITY",
            "STATE": "IDENTITY",
            "ENV": "IDENTITY",
            "ACTION": "MIN_MAX",
        },
        image_encoder_hidden_dim: int = 32,
        state_encoder_hidden_dim: int = 256,
        latent_dim: int = 50,
        q_ensemble_size: int = 5,
        mlp_dim: int = 512,
        discount: float = 0.9,
        use_mpc: bool = True,
        cem_iterations: int = 6,
        max_std: float = 2.0,
        min_std: float = 0.05,
        n_gaussian_samples: int = 512,
        n_pi_samples: int = 51,
        uncertainty_regularizer_coeff: float = 1.0,
        n_elites: int = 50,
        elite_weighting_temperature: float = 0.5,
        gaussian_mean_momentum: float = 0.1,
        max_random_shift_ratio: float = 0.0476,
        reward_coeff: float = 0.5,
        expectile_weight: float = 0.9,
        value_coeff: float = 0.1,
        consistency_coeff: float = 20.0,
        advantage_scaling: float = 3.0,
        pi_coeff: float = 0.5,
        temporal_decay_coeff: float = 0.5,
        target_model_momentum: float = 0.995,
        optimizer_lr: float = 0.0003,
        learning_rate: float = 0.0003,
        lr: float = 0.0003,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: SampleWeighter | None = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...
