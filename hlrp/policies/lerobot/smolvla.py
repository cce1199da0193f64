"""`SmolVLA`: LeRobot's policy `smolvla` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class SmolVLA(CleanPolicy):
    """SmolVLA.

    LeRobot's policy `smolvla`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`; `backbone` for
    `vlm_model_name`; `num_inference_steps` for `num_steps`; `action_horizon` for `chunk_size`.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        resize_imgs_with_padding: Height and width that images are brought to, keeping their proportions.
        empty_cameras: Cameras that are added with empty images.
        adapt_to_pi_aloha: Whether joints and gripper are converted from the Aloha space to the one of the base model.
        use_delta_joint_actions_aloha: Converts joint dimensions to relative values with respect to the current state
            before passing to the model.
        tokenizer_max_length: Longest instruction in tokens.
        num_steps: Denoising steps of a chunk.
        use_cache: Whether keys and values of the prefix are kept between denoising steps.
        freeze_vision_encoder: Whether the vision encoder is kept as it is.
        train_expert_only: Whether the vision-language model is kept as it is.
        train_state_proj: Whether the projection of the state is trained.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
        vlm_model_name: Select the VLM backbone.
        load_vlm_weights: Whether its pretrained weights are loaded.
        add_image_special_tokens: Whether to use special image tokens around image features.
        attention_mode: How the action expert attends to the prefix: `cross_attn` or `self_attn`.
        prefix_length: Length that the prefix is padded to; -1: none.
        pad_language_to: Padding of the instructions: `longest` of the batch, or `max_length`.
        num_expert_layers: Less or equal to 0 is the default where the action expert has the same number of layers of
            VLM.
        num_vlm_layers: Number of layers used in the VLM (first num_vlm_layers layers).
        self_attn_every_n_layers: Interleave SA layers each self_attn_every_n_layers.
        expert_width_multiplier: The action expert hidden size (wrt to the VLM).
        min_period: Sensitivity range for the timestep used in sine-cosine positional encoding.
        max_period: Longest period of the time embedding.
        rtc_config: LeRobot's real-time chunking; None: off.
        compile_model: Whether to use torch.compile for model optimization.
        compile_mode: Torch compile mode.
    """

    lerobot_type = "smolvla"
