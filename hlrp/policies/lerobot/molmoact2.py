"""`MolmoAct2`: LeRobot's policy `molmoact2` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class MolmoAct2(CleanPolicy):
    """MolmoAct2.

    LeRobot's policy `molmoact2`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        max_sequence_length: Leave unset for the default MolmoAct2 sequence budget inferred from the fixed
            image/prompt/state/action token layout.
        expected_max_action_dim: Fixed by released MolmoAct2 checkpoints.
        num_flow_timesteps: Flow-matching training knobs copied from the original MolmoAct2 training path.
        num_inference_steps: Denoising steps of a chunk.
        per_episode_seed: MolmoAct2-local eval option.
        rtc_config: LeRobot's real-time chunking; None: off.
        joint_signs: Joint frame transform for cross-calibration compatibility.
        enable_lora_vlm: Default is full finetuning with gradients from the action expert flowing into the VLM.
        gradient_checkpointing: Whether activations are computed again in the backward pass, to save memory.
        model_dtype: Type of the weights, such as float32 or bfloat16.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
    """

    lerobot_type = "molmoact2"
