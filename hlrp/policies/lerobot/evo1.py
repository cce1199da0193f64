"""`Evo1`: the clean class of LeRobot's policy `evo1`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.utils.sample_weighting import SampleWeighter


class Evo1(CleanPolicy):
    """EVO-1.

    LeRobot's policy `evo1`, trained by Lightning. Fields that are not given are LeRobot's
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
        training_stage: Not described by LeRobot.
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        max_views: Not described by LeRobot.
        image_resolution: Height and width that images are brought to.
        empty_cameras: Cameras that are added with empty images.
        postprocess_action_dim: Not described by LeRobot.
        binarize_gripper: Not described by LeRobot.
        gripper_index: Not described by LeRobot.
        gripper_threshold: Not described by LeRobot.
        gripper_below_threshold_value: Not described by LeRobot.
        gripper_above_threshold_value: Not described by LeRobot.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        vlm_model_name: Name or folder of the vision-language model.
        vlm_num_layers: Not described by LeRobot.
        vlm_dtype: Not described by LeRobot.
        max_text_length: Max token length for tokenizing the (image placeholders + instruction) prompt.
        use_flash_attn: Not described by LeRobot.
        action_head: Not described by LeRobot.
        embed_dim: Not described by LeRobot.
        hidden_dim: Not described by LeRobot.
        state_hidden_dim: Not described by LeRobot.
        num_heads: Not described by LeRobot.
        num_layers: Not described by LeRobot.
        dropout: Dropout of the transformer.
        num_inference_timesteps: Not described by LeRobot.
        num_categories: Not described by LeRobot.
        return_cls_only: When True, the action head is conditioned on a single pooled VL token (the last non-padding
            token of the causal decoder) instead of the full fused token sequence.
        enable_gradient_checkpointing: Not described by LeRobot.
        gradient_checkpointing_use_reentrant: Not described by LeRobot.
        finetune_vlm: Not described by LeRobot.
        finetune_language_model: Not described by LeRobot.
        finetune_vision_model: Not described by LeRobot.
        finetune_action_head: Not described by LeRobot.
        apply_training_stage_defaults: Reapply stage defaults after loading checkpoint configs so stage2 cannot
            accidentally inherit the frozen VLM flags stored by a stage1 checkpoint.
        task_field: Not described by LeRobot.
        embodiment_id_field: Not described by LeRobot.
        default_embodiment_id: Not described by LeRobot.
        rtc_config: LeRobot's real-time chunking; None: off.
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

    lerobot_type = "evo1"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
        input_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        output_features: "Mapping[str, PolicyFeature | Mapping[str, Any]] | None" = frozen({}),
        device: str | None = None,
        use_amp: bool = True,
        use_peft: bool = False,
        push_to_hub: bool = True,
        repo_id: str | None = None,
        private: bool | None = None,
        tags: Sequence[str] | None = None,
        license: str | None = None,
        pretrained_path: Path | str | None = None,
        pretrained_revision: str | None = None,
        training_stage: str = "stage1",
        chunk_size: int = 50,
        n_action_steps: int = 50,
        max_state_dim: int = 24,
        max_action_dim: int = 24,
        max_views: int = 3,
        image_resolution: tuple[int, int] = (448, 448),
        empty_cameras: int = 0,
        postprocess_action_dim: int | None = None,
        binarize_gripper: bool = False,
        gripper_index: int = 6,
        gripper_threshold: float = 0.5,
        gripper_below_threshold_value: float = 1.0,
        gripper_above_threshold_value: float = -1.0,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}
        ),
        vlm_model_name: str = "OpenGVLab/InternVL3-1B-hf",
        vlm_num_layers: int | None = 14,
        vlm_dtype: str = "bfloat16",
        max_text_length: int = 1024,
        use_flash_attn: bool = True,
        action_head: str = "flowmatching",
        embed_dim: int = 896,
        hidden_dim: int = 1024,
        state_hidden_dim: int = 1024,
        num_heads: int = 8,
        num_layers: int = 8,
        dropout: float = 0.0,
        num_inference_timesteps: int = 32,
        num_categories: int = 1,
        return_cls_only: bool = False,
        enable_gradient_checkpointing: bool = True,
        gradient_checkpointing_use_reentrant: bool = False,
        finetune_vlm: bool | None = None,
        finetune_language_model: bool | None = None,
        finetune_vision_model: bool | None = None,
        finetune_action_head: bool | None = None,
        apply_training_stage_defaults: bool = True,
        task_field: str = "task",
        embodiment_id_field: str | None = None,
        default_embodiment_id: int = 0,
        rtc_config: "RTCConfig | Mapping[str, Any] | None" = None,
        optimizer_lr: float = 1e-05,
        optimizer_betas: tuple[float, float] = (0.9, 0.999),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 1e-05,
        optimizer_grad_clip_norm: float = 1.0,
        scheduler_warmup_steps: int = 300,
        learning_rate: float = 1e-05,
        lr: float = 1e-05,
        weight_decay: float = 1e-05,
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
