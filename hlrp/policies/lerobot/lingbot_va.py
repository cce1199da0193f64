"""`LingBotVA`: the clean class of LeRobot's policy `lingbot_va`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class LingBotVA(CleanPolicy):
    """LingBot-VA.

    LeRobot's policy `lingbot_va`, trained by Lightning. Fields that are not given are LeRobot's
    defaults, or those of the checkpoint that it starts from.

    Args:
        n_obs_steps: Number of environment steps worth of observations to pass to the policy (takes the current step
            and additional steps going back).
        input_features: Features that the policy reads; taken from the data where none are given.
        output_features: Features that the policy predicts; taken from the data where none are given.
        device: Where `from_dataset` and `from_pretrained` make the policy; training is on the trainer's `device`.
        use_amp: Mixed precision of LeRobot's own loop; in Lightning it is the trainer's `precision`.
        use_peft: Whether the policy was trained with PEFT.
        push_to_hub: Whether LeRobot's own training uploads the result; Lightning's does not.
        repo_id: Name of the policy on the hub.
        private: Whether its repository is private.
        tags: Tags of the repository.
        license: Licence of the repository.
        pretrained_path: Another name of `init_from`.
        pretrained_revision: Hub revision of the pretrained weights: commit, branch or tag.
        patch_size: Not described by LeRobot.
        num_attention_heads: Not described by LeRobot.
        attention_head_dim: Not described by LeRobot.
        in_channels: Not described by LeRobot.
        out_channels: Not described by LeRobot.
        action_dim: Not described by LeRobot.
        text_dim: Not described by LeRobot.
        freq_dim: Not described by LeRobot.
        ffn_dim: Not described by LeRobot.
        num_layers: Not described by LeRobot.
        cross_attn_norm: Not described by LeRobot.
        eps: Not described by LeRobot.
        rope_max_seq_len: Not described by LeRobot.
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
        height: Not described by LeRobot.
        width: Not described by LeRobot.
        action_per_frame: Not described by LeRobot.
        frame_chunk_size: Not described by LeRobot.
        attn_window: Not described by LeRobot.
        num_inference_steps: Denoising steps of a chunk.
        video_exec_step: Not described by LeRobot.
        action_num_inference_steps: Not described by LeRobot.
        guidance_scale: Not described by LeRobot.
        action_guidance_scale: Not described by LeRobot.
        snr_shift: Not described by LeRobot.
        action_snr_shift: Not described by LeRobot.
        max_sequence_length: UMT5 prompt length.
        used_action_channel_ids: Subset of the 30-d action space used by the benchmark (LIBERO = 7-DoF).
        save_predicted_video: Opt-in: VAE-decode predicted video latents to ``self.last_predicted_frames`` for saving
            MP4s.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        learning_rate: Another name of `optimizer_lr`.
        lr: Another name of `optimizer_lr`.
        weight_decay: Another name of `optimizer_weight_decay`.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "lingbot_va"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
        input_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        output_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        device: str | None = None,
        use_amp: bool = False,
        use_peft: bool = False,
        push_to_hub: bool = True,
        repo_id: str | None = None,
        private: bool | None = None,
        tags: Sequence[str] | None = None,
        license: str | None = None,
        pretrained_path: Path | str | None = None,
        pretrained_revision: str | None = None,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        in_channels: int = 48,
        out_channels: int = 48,
        action_dim: int = 30,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 14336,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        eps: float = 1e-06,
        rope_max_seq_len: int = 1024,
        attn_mode: str = "torch",
        wan_pretrained_path: str = "robbyant/lingbot-va-base",
        dtype: str = "bfloat16",
        text_encoder_device: str = "cpu",
        obs_cam_keys: Sequence[str] = frozen(["observation.images.image", "observation.images.image2"]),
        image_hflip: bool = False,
        camera_layout: str = "width_concat",
        height: int = 128,
        width: int = 128,
        action_per_frame: int = 4,
        frame_chunk_size: int = 4,
        attn_window: int = 30,
        num_inference_steps: int = 20,
        video_exec_step: int = -1,
        action_num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        action_guidance_scale: float = 1.0,
        snr_shift: float = 5.0,
        action_snr_shift: float = 0.05,
        max_sequence_length: int = 512,
        used_action_channel_ids: Sequence[int] = frozen([0, 1, 2, 3, 4, 5, 6]),
        save_predicted_video: bool = False,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"}
        ),
        optimizer_lr: float = 1e-05,
        optimizer_betas: tuple[float, float] = (0.9, 0.95),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 0.0001,
        optimizer_grad_clip_norm: float = 1.0,
        scheduler_warmup_steps: int = 1000,
        learning_rate: float = 1e-05,
        lr: float = 1e-05,
        weight_decay: float = 0.0001,
        init_from: Path | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: "SampleWeighter | None" = None,
        rename_map: dict[str, str] | None = None,
        allow_download: bool = False,
    ) -> None: ...

    from_dataset = maker_for_dataset(__init__)
    from_pretrained = maker_from_pretrained(__init__)  # type: ignore[assignment]
