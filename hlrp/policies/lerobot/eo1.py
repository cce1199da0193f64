"""`EO1`: LeRobot's policy `eo1` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class EO1(CleanPolicy):
    """EO-1.

    LeRobot's policy `eo1`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        time_sampling_beta_alpha: Alpha of the beta distribution that training draws times from.
        time_sampling_beta_beta: Beta of that distribution.
        time_sampling_scale: Scale of the drawn times.
        time_sampling_offset: Offset of the drawn times.
        min_period: Shortest period of the time embedding.
        max_period: Longest period of the time embedding.
        dtype: Type of the weights, such as float32 or bfloat16.
        attn_implementation: Optional attention backend request passed through to the Qwen backbone.
        gradient_checkpointing: Enable gradient checkpointing for memory optimization.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: 0.03 * 30_000 long-run steps.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
    """

    lerobot_type = "eo1"
