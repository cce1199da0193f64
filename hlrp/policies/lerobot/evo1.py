"""`Evo1`: LeRobot's policy `evo1` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class Evo1(CleanPolicy):
    """EVO-1.

    LeRobot's policy `evo1`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        image_resolution: Height and width that images are brought to.
        empty_cameras: Cameras that are added with empty images.
        vlm_model_name: Name or folder of the vision-language model.
        max_text_length: Max token length for tokenizing the (image placeholders + instruction) prompt.
        dropout: Dropout of the transformer.
        return_cls_only: When True, the action head is conditioned on a single pooled VL token (the last non-padding
            token of the causal decoder) instead of the full fused token sequence.
        apply_training_stage_defaults: Reapply stage defaults after loading checkpoint configs so stage2 cannot
            accidentally inherit the frozen VLM flags stored by a stage1 checkpoint.
        rtc_config: LeRobot's real-time chunking; None: off.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
    """

    lerobot_type = "evo1"
