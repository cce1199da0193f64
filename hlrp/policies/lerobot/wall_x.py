"""`WallX`: LeRobot's policy `wall_x` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class WallX(CleanPolicy):
    """WALL-X.

    LeRobot's policy `wall_x`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        chunk_size: Action_horizon in wall-x.
        n_action_steps: Of these, how many are executed before the next prediction.
        max_action_dim: Width that shorter actions are padded to.
        max_state_dim: Width that shorter states are padded to.
        prediction_mode: Action prediction mode: "diffusion" or "fast".
        attn_implementation: Wall-X's bidirectional action-token islands currently require eager attention.
        vision_attn_implementation: Vision attention is independent from the text action-token mask.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
    """

    lerobot_type = "wall_x"
