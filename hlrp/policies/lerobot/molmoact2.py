"""`MolmoAct2`: the clean class of LeRobot's policy `molmoact2`.

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


class MolmoAct2(CleanPolicy):
    """MolmoAct2.

    LeRobot's policy `molmoact2`, trained by Lightning. Fields that are not given are LeRobot's
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
        checkpoint_path: Not described by LeRobot.
        checkpoint_revision: Not described by LeRobot.
        checkpoint_force_download: Not described by LeRobot.
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        action_mode: Not described by LeRobot.
        inference_action_mode: Not described by LeRobot.
        discrete_action_tokenizer: Not described by LeRobot.
        discrete_generation_max_steps: Not described by LeRobot.
        norm_tag: Not described by LeRobot.
        setup_type: Not described by LeRobot.
        control_mode: Not described by LeRobot.
        image_keys: Not described by LeRobot.
        normalize_language: Not described by LeRobot.
        add_setup_tokens: Not described by LeRobot.
        add_control_tokens: Not described by LeRobot.
        normalize_gripper: Not described by LeRobot.
        num_state_tokens: Not described by LeRobot.
        max_sequence_length: Leave unset for the default MolmoAct2 sequence budget inferred from the fixed
            image/prompt/state/action token layout.
        expected_max_action_dim: Fixed by released MolmoAct2 checkpoints.
        num_flow_timesteps: Flow-matching training knobs copied from the original MolmoAct2 training path.
        flow_matching_cutoff: Not described by LeRobot.
        flow_matching_time_offset: Not described by LeRobot.
        flow_matching_time_scale: Not described by LeRobot.
        flow_matching_beta_alpha: Not described by LeRobot.
        flow_matching_beta_beta: Not described by LeRobot.
        num_inference_steps: Denoising steps of a chunk.
        mask_action_dim_padding: Not described by LeRobot.
        enable_inference_cuda_graph: Not described by LeRobot.
        per_episode_seed: MolmoAct2-local eval option.
        eval_seed: Not described by LeRobot.
        rtc_config: LeRobot's real-time chunking; None: off.
        joint_signs: Joint frame transform for cross-calibration compatibility.
        joint_offsets: Not described by LeRobot.
        enable_lora_vlm: Default is full finetuning with gradients from the action expert flowing into the VLM.
        lora_rank: Not described by LeRobot.
        lora_alpha: Not described by LeRobot.
        lora_dropout: Not described by LeRobot.
        lora_bias: Not described by LeRobot.
        enable_lora_action_expert: Not described by LeRobot.
        enable_knowledge_insulation: Not described by LeRobot.
        freeze_embedding: Not described by LeRobot.
        train_action_expert_only: Not described by LeRobot.
        gradient_checkpointing: Whether activations are computed again in the backward pass, to save memory.
        model_dtype: Type of the weights, such as float32 or bfloat16.
        softmax_auxiliary_loss: Not described by LeRobot.
        softmax_auxiliary_loss_scale: Not described by LeRobot.
        discrete_loss_token_weighting: Not described by LeRobot.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_vit_lr: Not described by LeRobot.
        optimizer_connector_lr: Not described by LeRobot.
        optimizer_action_expert_lr: Not described by LeRobot.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        dataset_feature_names: Not described by LeRobot.
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

    lerobot_type = "molmoact2"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 1,
        input_features: "Mapping[str, PolicyFeature | Mapping[str, Any]]" = frozen({}),
        output_features: "Mapping[str, PolicyFeature | Mapping[str, Any]]" = frozen({}),
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
        checkpoint_path: str = "allenai/MolmoAct2",
        checkpoint_revision: str | None = None,
        checkpoint_force_download: bool = False,
        chunk_size: int = 30,
        n_action_steps: int = 30,
        action_mode: str = "both",
        inference_action_mode: str | None = None,
        discrete_action_tokenizer: str = "allenai/MolmoAct2-FAST-Tokenizer",
        discrete_generation_max_steps: int | None = None,
        norm_tag: str | None = None,
        setup_type: str = "",
        control_mode: str = "",
        image_keys: Sequence[str] = frozen([]),
        normalize_language: bool = True,
        add_setup_tokens: bool = True,
        add_control_tokens: bool = True,
        normalize_gripper: bool = False,
        num_state_tokens: int = 256,
        max_sequence_length: int | None = None,
        expected_max_action_dim: int = 32,
        num_flow_timesteps: int = 8,
        flow_matching_cutoff: float = 1.0,
        flow_matching_time_offset: float = 0.001,
        flow_matching_time_scale: float = 0.999,
        flow_matching_beta_alpha: float = 1.0,
        flow_matching_beta_beta: float = 1.5,
        num_inference_steps: int | None = None,
        mask_action_dim_padding: bool = True,
        enable_inference_cuda_graph: bool = True,
        per_episode_seed: bool = False,
        eval_seed: int | None = None,
        rtc_config: "RTCConfig | Mapping[str, Any] | None" = None,
        joint_signs: Sequence[float] | None = None,
        joint_offsets: Sequence[float] | None = None,
        enable_lora_vlm: bool = False,
        lora_rank: int = 64,
        lora_alpha: int = 16,
        lora_dropout: float = 0.05,
        lora_bias: str = "none",
        enable_lora_action_expert: bool = False,
        enable_knowledge_insulation: bool = False,
        freeze_embedding: bool = True,
        train_action_expert_only: bool = False,
        gradient_checkpointing: bool = False,
        model_dtype: str = "bfloat16",
        softmax_auxiliary_loss: bool = True,
        softmax_auxiliary_loss_scale: float = 0.0001,
        discrete_loss_token_weighting: str = "root_subsegments_root_tokens",
        optimizer_lr: float = 1e-05,
        optimizer_vit_lr: float = 5e-06,
        optimizer_connector_lr: float = 5e-06,
        optimizer_action_expert_lr: float = 5e-05,
        optimizer_betas: tuple[float, float] = (0.9, 0.95),
        optimizer_eps: float = 1e-06,
        optimizer_weight_decay: float = 0.0,
        optimizer_grad_clip_norm: float = 1.0,
        scheduler_warmup_steps: int = 200,
        scheduler_decay_steps: int = 100000,
        scheduler_decay_lr: float = 1e-06,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"}
        ),
        dataset_feature_names: Mapping[str, Any] = frozen({}),
        learning_rate: float = 1e-05,
        lr: float = 1e-05,
        weight_decay: float = 0.0,
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
