"""`Pi0Fast`: LeRobot's policy `pi0_fast` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class Pi0Fast(CleanPolicy):
    """π0-FAST.

    LeRobot's policy `pi0_fast`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`;
    `action_horizon` for `chunk_size`.

    Args:
        paligemma_variant: Size of the vision-language model.
        action_expert_variant: Size of the action expert.
        dtype: Type of the weights, such as float32 or bfloat16.
        chunk_size: Number of action steps to predict, in openpi called "action_horizon".
        n_action_steps: Number of action steps to execute.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        max_action_tokens: Most tokens of a chunk of actions.
        use_relative_actions: Whether actions are made relative to the state.
        relative_exclude_joints: Joints that stay absolute with `use_relative_actions`; none: all are relative.
        action_feature_names: Names of the action's parts; filled in from the data.
        rtc_config: LeRobot's real-time chunking; None: off.
        image_resolution: Height and width that images are brought to.
        empty_cameras: Cameras that are added with empty images.
        tokenizer_max_length: Longest instruction in tokens.
        text_tokenizer_name: Tokenizer of the instructions.
        action_tokenizer_name: Tokenizer of the actions.
        temperature: Temperature at which tokens are drawn; 0: the likeliest.
        max_decoding_steps: Most tokens that are generated for a chunk of actions.
        fast_skip_tokens: Tokens at the end of the vocabulary that are left free below the actions' own.
        validate_action_token_prefix: Whether to validate that decoded action tokens start with "Action: " prefix.
        use_kv_cache: Whether to use KV cache for faster autoregressive decoding.
        gradient_checkpointing: Enable gradient checkpointing for memory optimization.
        compile_model: Whether to use torch.compile for model optimization.
        compile_mode: Torch compile mode.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
    """

    lerobot_type = "pi0_fast"
