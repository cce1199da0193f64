"""`MultiTaskDiT`: LeRobot's policy `multi_task_dit` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class MultiTaskDiT(CleanPolicy):
    """Multi-task diffusion transformer.

    LeRobot's policy `multi_task_dit`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
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
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        scheduler_name: Schedule of the learning rate, by diffusers' name.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        do_mask_loss_for_padding: Whether padded actions are left out of the loss.
        drop_n_last_frames: Frames at the end of an episode that no sample starts at.
    """

    lerobot_type = "multi_task_dit"
