"""`FastWAM`: LeRobot's policy `fastwam` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class FastWAM(CleanPolicy):
    """FastWAM.

    LeRobot's policy `fastwam`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        action_dim: Number of scalar action channels per timestep.
        proprio_dim: Number of proprioception channels used as an extra text-context token.
        action_horizon: Number of actions predicted by one policy call.
        n_action_steps: Of these, how many are executed before the next prediction.
        num_video_frames: Raw video sampling window (in dataset frames).
        action_video_freq_ratio: Actions are sampled at this multiple of the video frame rate.
        image_size: Concatenated image size as `(height, width)`.
        context_len: Maximum text embedding token length.
        torch_dtype: Type of the weights, such as float32 or bfloat16.
        num_inference_steps: Denoising steps of a chunk.
        use_gradient_checkpointing: Enable activation checkpointing in both DiT experts (trades compute for memory;
            propagated into the DiT configs).
        freeze_video_expert: Freeze the ~5B Wan video expert (`model.video_expert`) so only the action expert +
            proprio encoder train.
        video_dit_config: Wan video expert config.
        action_dit_config: Action expert config.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_weight_decay: Weight decay.
    """

    lerobot_type = "fastwam"
