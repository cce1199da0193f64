"""`MultiTaskDiT`: the clean class of LeRobot's policy `multi_task_dit`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class MultiTaskDiT(CleanPolicy):
    """Multi-task diffusion transformer.

    LeRobot's policy `multi_task_dit`, trained by Lightning. Fields that are not given are LeRobot's
    defaults, or those of the checkpoint that it starts from.

    Args:
        n_obs_steps: Number of environment steps worth of observations to pass to the policy (takes the current step
            and additional steps going back).
        input_features: Features that the policy reads; taken from the data where none are given.
        output_features: Features that the policy predicts; taken from the data where none are given.
        device: Where `from_dataset` and `from_pretrained` make the policy; training is on the trainer's `device`.
        use_amp: Mixed precision of LeRobot's own loop; in Lightning it is the trainer's `precision`.
        use_peft: Whether the policy was trained with PEFT.
        push_to_hub: Whether LeRobot's own training uploads the result; Lightning's does not.
        repo_id: Name of the policy on the hub.
        private: Whether its repository is private.
        tags: Tags of the repository.
        license: Licence of the repository.
        pretrained_path: Another name of `init_from`.
        pretrained_revision: Hub revision of the pretrained weights: commit, branch or tag.
        horizon: Number of action steps to predict.
        n_action_steps: Actions executed per policy call (~0.8s at 30Hz).
        objective: "diffusion" or "flow_matching".
        noise_scheduler_type: "DDPM" or "DDIM".
        num_train_timesteps: Number of diffusion timesteps.
        beta_schedule: Noise schedule type.
        beta_start: Starting noise level.
        beta_end: Ending noise level.
        prediction_type: "epsilon" (predict noise) or "sample" (predict clean).
        clip_sample: Clip samples during denoising.
        clip_sample_range: Clipping range [-x, x].
        num_inference_steps: Denoising steps at inference (defaults to num_train_timesteps).
        sigma_min: Minimum noise in flow interpolation path.
        num_integration_steps: ODE integration steps at inference.
        integration_method: ODE solver: "euler" or "rk4".
        timestep_sampling_strategy: "uniform" or "beta".
        timestep_sampling_s: (beta only) Max timestep threshold.
        timestep_sampling_alpha: (beta only) Beta distribution alpha.
        timestep_sampling_beta: (beta only) Beta distribution beta.
        hidden_dim: Transformer hidden dimension.
        num_layers: Number of transformer layers.
        num_heads: Number of attention heads.
        dropout: Dropout of the transformer.
        use_positional_encoding: Use absolute positional encoding.
        timestep_embed_dim: Timestep embedding dimension.
        use_rope: Use Rotary Position Embedding.
        rope_base: RoPE base frequency.
        vision_encoder_name: HuggingFace CLIP model.
        use_separate_rgb_encoder_per_camera: Separate encoder per camera view.
        vision_encoder_lr_multiplier: LR multiplier for vision encoder.
        image_resize_shape: Resize images before crop.
        image_crop_shape: Crop shape (CLIP default).
        image_crop_is_random: Random crop during training, center at inference.
        text_encoder_name: HuggingFace CLIP model.
        tokenizer_max_length: Max length for tokenized text (CLIP default is 77).
        tokenizer_padding: Padding strategy: "max_length" or "longest".
        tokenizer_padding_side: Padding side: "left" or "right".
        tokenizer_truncation: Whether to truncate sequences longer than max_length.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        scheduler_name: Schedule of the learning rate, by diffusers' name.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        do_mask_loss_for_padding: Whether padded actions are left out of the loss.
        drop_n_last_frames: Frames at the end of an episode that no sample starts at.
        learning_rate: Another name of `optimizer_lr`.
        lr: Another name of `optimizer_lr`.
        weight_decay: Another name of `optimizer_weight_decay`.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "multi_task_dit"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 2,
        input_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        output_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
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
        horizon: int = 32,
        n_action_steps: int = 24,
        objective: str = "diffusion",
        noise_scheduler_type: str = "DDPM",
        num_train_timesteps: int = 100,
        beta_schedule: str = "squaredcos_cap_v2",
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        prediction_type: str = "epsilon",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        num_inference_steps: int | None = None,
        sigma_min: float = 0.0,
        num_integration_steps: int = 100,
        integration_method: str = "euler",
        timestep_sampling_strategy: str = "beta",
        timestep_sampling_s: float = 0.999,
        timestep_sampling_alpha: float = 1.5,
        timestep_sampling_beta: float = 1.0,
        hidden_dim: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        dropout: float = 0.1,
        use_positional_encoding: bool = False,
        timestep_embed_dim: int = 256,
        use_rope: bool = True,
        rope_base: float = 10000.0,
        vision_encoder_name: str = "openai/clip-vit-base-patch16",
        use_separate_rgb_encoder_per_camera: bool = False,
        vision_encoder_lr_multiplier: float = 0.1,
        image_resize_shape: tuple[int, int] | None = None,
        image_crop_shape: tuple[int, int] | None = (224, 224),
        image_crop_is_random: bool = True,
        text_encoder_name: str = "openai/clip-vit-base-patch16",
        tokenizer_max_length: int = 77,
        tokenizer_padding: str = "max_length",
        tokenizer_padding_side: str = "right",
        tokenizer_truncation: bool = True,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}
        ),
        optimizer_lr: float = 2e-05,
        optimizer_betas: tuple[Any, ...] = (0.95, 0.999),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 0.0,
        scheduler_name: str = "cosine",
        scheduler_warmup_steps: int = 0,
        do_mask_loss_for_padding: bool = False,
        drop_n_last_frames: int | None = None,
        learning_rate: float = 2e-05,
        lr: float = 2e-05,
        weight_decay: float = 0.0,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: "SampleWeighter | None" = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...

    from_dataset = maker_for_dataset(__init__)
    from_pretrained = maker_from_pretrained(__init__)  # type: ignore[assignment]
