"""`Pi05`: the clean class of LeRobot's policy `pi05`.

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


class Pi05(CleanPolicy):
    """π0.5.

    LeRobot's policy `pi05`, trained by Lightning. Fields that are not given are LeRobot's
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
        paligemma_variant: Size of the vision-language model.
        action_expert_variant: Size of the action expert.
        dtype: Type of the weights, such as float32 or bfloat16.
        chunk_size: Number of action steps to predict, in openpi called "action_horizon".
        n_action_steps: Number of action steps to execute.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        num_inference_steps: Denoising steps of a chunk.
        time_sampling_beta_alpha: Alpha of the beta distribution that training draws times from.
        time_sampling_beta_beta: Beta of that distribution.
        time_sampling_scale: Scale of the drawn times.
        time_sampling_offset: Offset of the drawn times.
        min_period: Shortest period of the time embedding.
        max_period: Longest period of the time embedding.
        use_relative_actions: Whether actions are made relative to the state.
        relative_exclude_joints: Joints that stay absolute with `use_relative_actions`; none: all are relative.
        action_feature_names: Names of the action's parts; filled in from the data.
        rtc_config: LeRobot's real-time chunking; None: off.
        image_resolution: Height and width that images are brought to.
        empty_cameras: Cameras that are added with empty images.
        tokenizer_max_length: Longest instruction in tokens.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        gradient_checkpointing: Enable gradient checkpointing for memory optimization.
        compile_model: Whether to use torch.compile for model optimization.
        compile_mode: Torch compile mode.
        freeze_vision_encoder: Freeze only the vision encoder.
        train_expert_only: Freeze entire VLM, train only action expert and projections.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
        learning_rate: Another name of `optimizer_lr`.
        lr: Another name of `optimizer_lr`.
        weight_decay: Another name of `optimizer_weight_decay`.
        action_horizon: Another name of `chunk_size`.
        num_steps: Another name of `num_inference_steps`.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "pi05"

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
        paligemma_variant: str = "gemma_2b",
        action_expert_variant: str = "gemma_300m",
        dtype: str = "float32",
        chunk_size: int = 50,
        n_action_steps: int = 50,
        max_state_dim: int = 32,
        max_action_dim: int = 32,
        num_inference_steps: int = 10,
        time_sampling_beta_alpha: float = 1.5,
        time_sampling_beta_beta: float = 1.0,
        time_sampling_scale: float = 0.999,
        time_sampling_offset: float = 0.001,
        min_period: float = 0.004,
        max_period: float = 4.0,
        use_relative_actions: bool = False,
        relative_exclude_joints: Sequence[str] = frozen(["gripper"]),
        action_feature_names: Sequence[str] | None = None,
        rtc_config: "RTCConfig | Mapping[str, Any] | None" = None,
        image_resolution: tuple[int, int] = (224, 224),
        empty_cameras: int = 0,
        tokenizer_max_length: int = 200,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"}
        ),
        gradient_checkpointing: bool = False,
        compile_model: bool = False,
        compile_mode: str = "max-autotune",
        freeze_vision_encoder: bool = False,
        train_expert_only: bool = False,
        optimizer_lr: float = 2.5e-05,
        optimizer_betas: tuple[float, float] = (0.9, 0.95),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 0.01,
        optimizer_grad_clip_norm: float = 1.0,
        scheduler_warmup_steps: int = 1000,
        scheduler_decay_steps: int = 30000,
        scheduler_decay_lr: float = 2.5e-06,
        learning_rate: float = 2.5e-05,
        lr: float = 2.5e-05,
        weight_decay: float = 0.01,
        action_horizon: int = 50,
        num_steps: int = 10,
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
