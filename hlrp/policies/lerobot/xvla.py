"""`XVLA`: LeRobot's policy `xvla` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class XVLA(CleanPolicy):
    """X-VLA.

    LeRobot's policy `xvla`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        dtype: Type of the weights, such as float32 or bfloat16.
        tokenizer_name: Tokenizer of the instructions.
        tokenizer_max_length: Longest instruction in tokens.
        tokenizer_padding_side: Side on which short instructions are padded.
        pad_language_to: Padding of the instructions: `longest` of the batch, or `max_length`.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Maximum action dimension for padding (used by "auto" action mode).
        resize_imgs_with_padding: Height and width that images are brought to, keeping their proportions.
        empty_cameras: Cameras that are added with empty images.
        freeze_vision_encoder: Freeze VLM vision encoder weights.
        freeze_language_encoder: Freeze VLM language encoder weights.
        train_policy_transformer: Allow policy transformer to train.
        train_soft_prompts: Allow soft prompts to train.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        optimizer_soft_prompt_lr_scale: Scale factor for soft-prompt LR.
        optimizer_soft_prompt_warmup_lr_scale: Start scale for warmup (e.g., 0.01).
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
    """

    lerobot_type = "xvla"
