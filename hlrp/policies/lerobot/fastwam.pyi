# Made by scripts/make_policy_classes.py: run it, do not edit.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.utils.sample_weighting import SampleWeighter

from hlrp.policies.clean import CleanPolicy

class FastWAM(CleanPolicy):
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
        input_features: Mapping[str, PolicyFeature | Mapping[str, Any]] | None = None,
        output_features: Mapping[str, PolicyFeature | Mapping[str, Any]] | None = None,
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
        action_dim: int = 7,
        proprio_dim: int | None = 8,
        action_horizon: int = 32,
        n_action_steps: int = 32,
        num_video_frames: int = 33,
        action_video_freq_ratio: int = 4,
        image_size: tuple[int, int] = (224, 448),
        context_len: int = 128,
        model_id: str = "Wan-AI/Wan2.2-TI2V-5B",
        tokenizer_model_id: str = "google/umt5-xxl",
        text_encoder_model_id: str = "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        base_model_id: str | None = "lerobot/fastwam_base",
        tokenizer_max_len: int = 128,
        load_text_encoder: bool = True,
        mot_checkpoint_mixed_attn: bool = False,
        torch_dtype: str = "bfloat16",
        prompt_template: str = "A video recorded from a robot's point of view executing the following instruction: {task}",
        num_inference_steps: int = 10,
        inference_seed: int | None = 42,
        rand_device: str = "cpu",
        text_cfg_scale: float = 1.0,
        negative_prompt: str = "",
        sigma_shift: float | None = None,
        tiled: bool = False,
        fp32_attention: bool = True,
        use_gradient_checkpointing: bool = False,
        freeze_video_expert: bool = False,
        toggle_action_dimensions: Sequence[int] = [],
        video_scheduler: Mapping[str, float | int] = {
            "train_shift": 5.0,
            "infer_shift": 5.0,
            "num_train_timesteps": 1000,
        },
        action_scheduler: Mapping[str, float | int] = {
            "train_shift": 5.0,
            "infer_shift": 5.0,
            "num_train_timesteps": 1000,
        },
        loss: Mapping[str, float] = {"lambda_video": 1.0, "lambda_action": 1.0},
        video_dit_config: Mapping[str, Any] | None = None,
        action_dit_config: Mapping[str, Any] | None = None,
        normalization_mapping: Mapping[str, NormalizationMode | str] = {
            "VISUAL": "IDENTITY",
            "STATE": "MEAN_STD",
            "ACTION": "MEAN_STD",
        },
        optimizer_lr: float = 0.0001,
        optimizer_weight_decay: float = 0.01,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 0.01,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: SampleWeighter | None = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...
