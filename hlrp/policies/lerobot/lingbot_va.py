"""`LingBotVA`: LeRobot's policy `lingbot_va` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class LingBotVA(CleanPolicy):
    """LingBot-VA.

    LeRobot's policy `lingbot_va`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        attn_mode: "flex" = training only (needs recent torch); inference uses "torch" SDPA or "flashattn".
        wan_pretrained_path: Frozen sub-models (VAE + UMT5 text encoder + tokenizer) ~20 GB of frozen weights, NOT
            bundled in the checkpoint; lazily pulled from this HF repo / local dir (must hold diffusers-style
            ``vae/``, ``text_encoder/``, ``tokenizer/`` sub-folders).
        dtype: Transformer / VAE / text-encoder dtype: "bfloat16", "float16", "float32".
        text_encoder_device: Frozen UMT5-XXL encoder device; "cpu" frees ~11 GB VRAM (it runs once per episode).
        obs_cam_keys: Observation cameras (order matters: latents are concatenated on width; LIBERO defaults).
        image_hflip: Undo the LIBERO env processor's extra horizontal flip to match the model's training orientation.
        camera_layout: Camera latent layout: "width_concat" (cameras concatenated on width; LIBERO) or
            "robotwin_tshape" (full-res head + half-res wrists in a "T"; RoboTwin).
        num_inference_steps: Denoising steps of a chunk.
        max_sequence_length: UMT5 prompt length.
        used_action_channel_ids: Subset of the 30-d action space used by the benchmark (LIBERO = 7-DoF).
        save_predicted_video: Opt-in: VAE-decode predicted video latents to ``self.last_predicted_frames`` for saving
            MP4s.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
    """

    lerobot_type = "lingbot_va"
