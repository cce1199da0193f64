"""`Groot`: LeRobot's policy `groot` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class Groot(CleanPolicy):
    """GR00T.

    LeRobot's policy `groot`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        base_model_path: Path or HuggingFace model ID for the base GR00T N1.7 model whose backbone weights and
            checkpoint sidecars (statistics.json, processor_config.json, ...) are loaded.
        action_decode_transform: Optional named action transform applied after raw N1.7 checkpoint decoding and before
            env.step().
        embodiment_tag: Embodiment tag to use for training (e.g.
        tune_llm: Whether to fine-tune the llm backbone.
        tune_visual: Whether to fine-tune the vision tower.
        tune_diffusion_model: Whether to fine-tune the diffusion model.
        tune_vlln: Whether to fine-tune the VL LayerNorm + VL self-attention projector in the action head.
        tune_top_llm_layers: Number of top LLM backbone layers to fine-tune (0 = none).
        num_inference_timesteps: Inference-time knob: Number of flow-matching denoising steps used to decode an action
            chunk.
        rtc_ramp_rate: Inference-time knob: Real-Time Chunking (RTC) overlap-blend ramp rate, used when the RTC engine
            supplies a previous-chunk prefix.
        use_flash_attention: Inference-time knob: Whether to request the flash-attention-2 kernel for the Qwen3-VL
            backbone. flash-attn is an optional, user-managed optimization; when it is absent (the default), the
            backbone transparently falls back to SDPA, which is numerically equivalent.
        use_relative_actions: Whether actions are made relative to the state.
        relative_exclude_joints: Joints that stay absolute with `use_relative_actions`; none: all are relative.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        model_params_fp32: The native N1.7 fine-tuning recipe keeps model parameters in FP32 and computes under BF16
            autocast.
        image_size: Image sizing is handled by the backbone's image processor.
    """

    lerobot_type = "groot"
