"""`Pi0`: LeRobot's policy `pi0` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class Pi0(CleanPolicy):
    """π0.

    LeRobot's policy `pi0`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`;
    `action_horizon` for `chunk_size`; `num_steps` for `num_inference_steps`.

    Args:
        paligemma_variant: Size of the vision-language model.
        action_expert_variant: Size of the action expert.
        dtype: Type of the weights, such as float32 or bfloat16.
        chunk_size: Number of action steps to predict, in openpi called "action_horizon".
        n_action_steps: Number of action steps to execute.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        num_inference_steps: Number of denoising steps during inference.
        time_sampling_beta_alpha: Alpha of the beta distribution that training draws times from.
        time_sampling_beta_beta: Beta of that distribution.
        time_sampling_scale: Scale of the drawn times.
        time_sampling_offset: Offset of the drawn times.
        min_period: Shortest period of the time embedding.
        max_period: Longest period of the time embedding.
        use_relative_actions: Whether actions are made relative to the state.
        relative_exclude_joints: Joints that stay absolute with `use_relative_actions`; none: all are relative.
        action_feature_names: Names of the action's parts; filled in from the data.
        rtc_config: LeRobot's real-time chunking; None: off.
        image_resolution: Height and width that images are brought to.
        empty_cameras: Cameras that are added with empty images.
        gradient_checkpointing: Enable gradient checkpointing for memory optimization.
        compile_model: Whether to use torch.compile for model optimization.
        compile_mode: Torch compile mode.
        freeze_vision_encoder: Freeze only the vision encoder.
        train_expert_only: Freeze entire VLM, train only action expert and projections.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
        tokenizer_max_length: Longest instruction in tokens.
    """

    lerobot_type = "pi0"
