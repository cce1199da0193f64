"""`EO1`: the clean class of LeRobot's policy `eo1`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class EO1(CleanPolicy):
    """EO-1.

    LeRobot's policy `eo1`, trained by Lightning. Fields that are not given are LeRobot's
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
        vlm_base: Not described by LeRobot.
        vlm_config: Not described by LeRobot.
        image_min_pixels: Not described by LeRobot.
        image_max_pixels: Not described by LeRobot.
        use_fast_processor: Not described by LeRobot.
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        num_denoise_steps: Not described by LeRobot.
        num_action_layers: Not described by LeRobot.
        action_act: Not described by LeRobot.
        time_sampling_beta_alpha: Alpha of the beta distribution that training draws times from.
        time_sampling_beta_beta: Beta of that distribution.
        time_sampling_scale: Scale of the drawn times.
        time_sampling_offset: Offset of the drawn times.
        min_period: Shortest period of the time embedding.
        max_period: Longest period of the time embedding.
        supervise_padding_action_dims: Not described by LeRobot.
        supervise_padding_actions: Not described by LeRobot.
        dtype: Type of the weights, such as float32 or bfloat16.
        force_fp32_autocast: Not described by LeRobot.
        attn_implementation: Optional attention backend request passed through to the Qwen backbone.
        gradient_checkpointing: Enable gradient checkpointing for memory optimization.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: 0.03 * 30_000 long-run steps.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
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

    lerobot_type = "eo1"

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
        vlm_base: str = "Qwen/Qwen2.5-VL-3B-Instruct",
        vlm_config: Mapping[str, Any] | None = None,
        image_min_pixels: int | None = 50176,
        image_max_pixels: int | None = 100352,
        use_fast_processor: bool = False,
        chunk_size: int = 8,
        n_action_steps: int = 8,
        max_state_dim: int = 32,
        max_action_dim: int = 32,
        num_denoise_steps: int = 10,
        num_action_layers: int = 2,
        action_act: str = "linear",
        time_sampling_beta_alpha: float = 1.5,
        time_sampling_beta_beta: float = 1.0,
        time_sampling_scale: float = 0.999,
        time_sampling_offset: float = 0.001,
        min_period: float = 0.004,
        max_period: float = 4.0,
        supervise_padding_action_dims: bool = True,
        supervise_padding_actions: bool = True,
        dtype: str = "auto",
        force_fp32_autocast: bool = True,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
        ),
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[float, float] = (0.9, 0.999),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 0.1,
        optimizer_grad_clip_norm: float = 1.0,
        scheduler_warmup_steps: int = 900,
        scheduler_decay_steps: int = 30000,
        scheduler_decay_lr: float = 0.0,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 0.1,
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
