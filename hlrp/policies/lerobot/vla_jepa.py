"""`VLAJEPA`: the clean class of LeRobot's policy `vla_jepa`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class VLAJEPA(CleanPolicy):
    """VLA-JEPA.

    LeRobot's policy `vla_jepa`, trained by Lightning. Fields that are not given are LeRobot's
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
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        qwen_model_name: Not described by LeRobot.
        jepa_encoder_name: Not described by LeRobot.
        freeze_qwen: Not described by LeRobot.
        enable_world_model: Not described by LeRobot.
        reinit_modules: Enables cross-embodiment transfer: when fine-tuning a pretrained model on a robot with a
            different action or state dimensionality, the input/output projection layers must be re-initialised from
            scratch while the rest of the network keeps its pretrained weights.
        tokenizer_padding_side: Side on which short instructions are padded.
        prompt_template: Not described by LeRobot.
        special_action_token: Not described by LeRobot.
        embodied_action_token: Not described by LeRobot.
        action_dim: Not described by LeRobot.
        state_dim: Not described by LeRobot.
        num_action_tokens_per_timestep: Not described by LeRobot.
        num_embodied_action_tokens_per_instruction: Not described by LeRobot.
        num_inference_timesteps: Not described by LeRobot.
        action_hidden_size: Not described by LeRobot.
        action_model_type: Not described by LeRobot.
        action_num_layers: Not described by LeRobot.
        action_num_heads: Not described by LeRobot.
        action_attention_head_dim: Not described by LeRobot.
        action_dropout: Not described by LeRobot.
        action_num_timestep_buckets: Not described by LeRobot.
        action_noise_beta_alpha: Not described by LeRobot.
        action_noise_beta_beta: Not described by LeRobot.
        action_noise_s: Not described by LeRobot.
        num_target_vision_tokens: Not described by LeRobot.
        action_max_seq_len: Not described by LeRobot.
        num_video_frames: Total video frames loaded per sample.
        predictor_depth: Not described by LeRobot.
        predictor_num_heads: Not described by LeRobot.
        predictor_mlp_ratio: Not described by LeRobot.
        predictor_dropout: Not described by LeRobot.
        world_model_loss_weight: Not described by LeRobot.
        jepa_tubelet_size: Must match the encoder (e.g. 2 for vjepa2-vitl-fpc64-256).
        repeated_diffusion_steps: Independent noise draws per batch item (CogACT-style).
        resize_images_to: Not described by LeRobot.
        binarize_gripper_action: Not described by LeRobot.
        pre_snap_gripper_action: Not described by LeRobot.
        clip_normalized_actions: Not described by LeRobot.
        gripper_dim: Not described by LeRobot.
        gripper_threshold: Not described by LeRobot.
        torch_dtype: Type of the weights, such as float32 or bfloat16.
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
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "vla_jepa"

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
        chunk_size: int = 7,
        n_action_steps: int = 7,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MIN_MAX"}
        ),
        qwen_model_name: str = "Qwen/Qwen3-VL-2B-Instruct",
        jepa_encoder_name: str = "facebook/vjepa2-vitl-fpc64-256",
        freeze_qwen: bool = False,
        enable_world_model: bool = True,
        reinit_modules: Sequence[str] | None = None,
        tokenizer_padding_side: str = "left",
        prompt_template: str = "Your task is {instruction}. Infer the temporal dynamics from frames {actions} and produce the corresponding policy actions {e_actions}.",
        special_action_token: str = "<|action_{}|>",
        embodied_action_token: str = "<|embodied_action|>",
        action_dim: int = 7,
        state_dim: int = 8,
        num_action_tokens_per_timestep: int = 8,
        num_embodied_action_tokens_per_instruction: int = 32,
        num_inference_timesteps: int = 4,
        action_hidden_size: int = 1024,
        action_model_type: str = "DiT-B",
        action_num_layers: int = 16,
        action_num_heads: int | None = None,
        action_attention_head_dim: int | None = None,
        action_dropout: float = 0.2,
        action_num_timestep_buckets: int = 1000,
        action_noise_beta_alpha: float = 1.5,
        action_noise_beta_beta: float = 1.0,
        action_noise_s: float = 0.999,
        num_target_vision_tokens: int = 32,
        action_max_seq_len: int = 1024,
        num_video_frames: int = 8,
        predictor_depth: int = 12,
        predictor_num_heads: int = 8,
        predictor_mlp_ratio: float = 4.0,
        predictor_dropout: float = 0.0,
        world_model_loss_weight: float = 0.1,
        jepa_tubelet_size: int = 2,
        repeated_diffusion_steps: int = 8,
        resize_images_to: tuple[int, int] | None = None,
        binarize_gripper_action: bool = True,
        pre_snap_gripper_action: bool = True,
        clip_normalized_actions: bool = True,
        gripper_dim: int = 6,
        gripper_threshold: float = 0.5,
        torch_dtype: str = "bfloat16",
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[float, float] = (0.9, 0.95),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 1e-10,
        optimizer_grad_clip_norm: float = 10.0,
        scheduler_warmup_steps: int = 1000,
        scheduler_decay_steps: int = 30000,
        scheduler_decay_lr: float = 2.5e-06,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 1e-10,
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
