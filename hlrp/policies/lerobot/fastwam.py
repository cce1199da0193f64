"""`FastWAM`: the clean class of LeRobot's policy `fastwam`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class FastWAM(CleanPolicy):
    """FastWAM.

    LeRobot's policy `fastwam`, trained by Lightning. Fields that are not given are LeRobot's
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
        action_dim: Number of scalar action channels per timestep.
        proprio_dim: Number of proprioception channels used as an extra text-context token.
        action_horizon: Number of actions predicted by one policy call.
        n_action_steps: Of these, how many are executed before the next prediction.
        num_video_frames: Raw video sampling window (in dataset frames).
        action_video_freq_ratio: Actions are sampled at this multiple of the video frame rate.
        image_size: Concatenated image size as `(height, width)`.
        context_len: Maximum text embedding token length.
        model_id: Not described by LeRobot.
        tokenizer_model_id: Not described by LeRobot.
        text_encoder_model_id: Not described by LeRobot.
        base_model_id: Not described by LeRobot.
        tokenizer_max_len: Not described by LeRobot.
        load_text_encoder: Not described by LeRobot.
        mot_checkpoint_mixed_attn: Not described by LeRobot.
        torch_dtype: Type of the weights, such as float32 or bfloat16.
        prompt_template: Not described by LeRobot.
        num_inference_steps: Denoising steps of a chunk.
        inference_seed: Not described by LeRobot.
        rand_device: Not described by LeRobot.
        text_cfg_scale: Not described by LeRobot.
        negative_prompt: Not described by LeRobot.
        sigma_shift: Not described by LeRobot.
        tiled: Not described by LeRobot.
        fp32_attention: Not described by LeRobot.
        use_gradient_checkpointing: Enable activation checkpointing in both DiT experts (trades compute for memory;
            propagated into the DiT configs).
        freeze_video_expert: Freeze the ~5B Wan video expert (`model.video_expert`) so only the action expert +
            proprio encoder train.
        toggle_action_dimensions: Not described by LeRobot.
        video_scheduler: Not described by LeRobot.
        action_scheduler: Not described by LeRobot.
        loss: Not described by LeRobot.
        video_dit_config: Wan video expert config.
        action_dit_config: Action expert config.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_weight_decay: Weight decay.
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

    lerobot_type = "fastwam"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
        input_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = None,
        output_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = None,
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
        action_dim: int = 7,
        proprio_dim: int | None = 8,
        action_horizon: int = 32,
        n_action_steps: int = 32,
        num_video_frames: int = 33,
        action_video_freq_ratio: int = 4,
        image_size: tuple[int, int] = (224, 448),
        context_len: int = 128,
        model_id: str = "Wan-AI/Wan2.2-TI2V-5B",
        tokenizer_model_id: str = "google/umt5-xxl",
        text_encoder_model_id: str = "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        base_model_id: str | None = "lerobot/fastwam_base",
        tokenizer_max_len: int = 128,
        load_text_encoder: bool = True,
        mot_checkpoint_mixed_attn: bool = False,
        torch_dtype: str = "bfloat16",
        prompt_template: str = "A video recorded from a robot's point of view executing the following instruction: {task}",
        num_inference_steps: int = 10,
        inference_seed: int | None = 42,
        rand_device: str = "cpu",
        text_cfg_scale: float = 1.0,
        negative_prompt: str = "",
        sigma_shift: float | None = None,
        tiled: bool = False,
        fp32_attention: bool = True,
        use_gradient_checkpointing: bool = False,
        freeze_video_expert: bool = False,
        toggle_action_dimensions: Sequence[int] = frozen([]),
        video_scheduler: Mapping[str, float | int] = frozen(
            {"train_shift": 5.0, "infer_shift": 5.0, "num_train_timesteps": 1000}
        ),
        action_scheduler: Mapping[str, float | int] = frozen(
            {"train_shift": 5.0, "infer_shift": 5.0, "num_train_timesteps": 1000}
        ),
        loss: Mapping[str, float] = frozen({"lambda_video": 1.0, "lambda_action": 1.0}),
        video_dit_config: Mapping[str, Any] | None = None,
        action_dit_config: Mapping[str, Any] | None = None,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
        ),
        optimizer_lr: float = 0.0001,
        optimizer_weight_decay: float = 0.01,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 0.01,
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
