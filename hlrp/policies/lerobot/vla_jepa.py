"""`VLAJEPA`: LeRobot's policy `vla_jepa` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class VLAJEPA(CleanPolicy):
    """VLA-JEPA.

    LeRobot's policy `vla_jepa`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        reinit_modules: Enables cross-embodiment transfer: when fine-tuning a pretrained model on a robot with a
            different action or state dimensionality, the input/output projection layers must be re-initialised from
            scratch while the rest of the network keeps its pretrained weights.
        tokenizer_padding_side: Side on which short instructions are padded.
        num_video_frames: Total video frames loaded per sample.
        jepa_tubelet_size: Must match the encoder (e.g. 2 for vjepa2-vitl-fpc64-256).
        repeated_diffusion_steps: Independent noise draws per batch item (CogACT-style).
        torch_dtype: Type of the weights, such as float32 or bfloat16.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
    """

    lerobot_type = "vla_jepa"
