"""`SmolVLA`: the clean class of LeRobot's policy `smolvla`.

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


class SmolVLA(CleanPolicy):
    """SmolVLA.

    LeRobot's policy `smolvla`, trained by Lightning. Fields that are not given are LeRobot's
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
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        resize_imgs_with_padding: Height and width that images are brought to, keeping their proportions.
        empty_cameras: Cameras that are added with empty images.
        adapt_to_pi_aloha: Whether joints and gripper are converted from the Aloha space to the one of the base model.
        use_delta_joint_actions_aloha: Converts joint dimensions to relative values with respect to the current state
            before passing to the model.
        tokenizer_max_length: Longest instruction in tokens.
        num_steps: Denoising steps of a chunk.
        use_cache: Whether keys and values of the prefix are kept between denoising steps.
        freeze_vision_encoder: Whether the vision encoder is kept as it is.
        train_expert_only: Whether the vision-language model is kept as it is.
        train_state_proj: Whether the projection of the state is trained.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Learning rate at the end of the decay.
        vlm_model_name: Select the VLM backbone.
        load_vlm_weights: Whether its pretrained weights are loaded.
        add_image_special_tokens: Whether to use special image tokens around image features.
        attention_mode: How the action expert attends to the prefix: `cross_attn` or `self_attn`.
        prefix_length: Length that the prefix is padded to; -1: none.
        pad_language_to: Padding of the instructions: `longest` of the batch, or `max_length`.
        num_expert_layers: Less or equal to 0 is the default where the action expert has the same number of layers of
            VLM.
        num_vlm_layers: Number of layers used in the VLM (first num_vlm_layers layers).
        self_attn_every_n_layers: Interleave SA layers each self_attn_every_n_layers.
        expert_width_multiplier: The action expert hidden size (wrt to the VLM).
        min_period: Sensitivity range for the timestep used in sine-cosine positional encoding.
        max_period: Longest period of the time embedding.
        rtc_config: LeRobot's real-time chunking; None: off.
        compile_model: Whether to use torch.compile for model optimization.
        compile_mode: Torch compile mode.
        learning_rate: Another name of `optimizer_lr`.
        lr: Another name of `optimizer_lr`.
        weight_decay: Another name of `optimizer_weight_decay`.
        backbone: Another name of `vlm_model_name`.
        num_inference_steps: Another name of `num_steps`.
        action_horizon: Another name of `chunk_size`.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "smolvla"

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
        chunk_size: int = 50,
        n_action_steps: int = 50,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
        ),
        max_state_dim: int = 32,
        max_action_dim: int = 32,
        resize_imgs_with_padding: tuple[int, int] = (512, 512),
        empty_cameras: int = 0,
        adapt_to_pi_aloha: bool = False,
        use_delta_joint_actions_aloha: bool = False,
        tokenizer_max_length: int = 48,
        num_steps: int = 10,
        use_cache: bool = True,
        freeze_vision_encoder: bool = True,
        train_expert_only: bool = True,
        train_state_proj: bool = True,
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[float, float] = (0.9, 0.95),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 1e-10,
        optimizer_grad_clip_norm: float = 10,
        scheduler_warmup_steps: int = 1000,
        scheduler_decay_steps: int = 30000,
        scheduler_decay_lr: float = 2.5e-06,
        vlm_model_name: str = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        load_vlm_weights: bool = False,
        add_image_special_tokens: bool = False,
        attention_mode: str = "cross_attn",
        prefix_length: int = -1,
        pad_language_to: str = "longest",
        num_expert_layers: int = -1,
        num_vlm_layers: int = 16,
        self_attn_every_n_layers: int = 2,
        expert_width_multiplier: float = 0.75,
        min_period: float = 0.004,
        max_period: float = 4.0,
        rtc_config: "RTCConfig | Mapping[str, Any] | None" = None,
        compile_model: bool = False,
        compile_mode: str = "max-autotune",
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 1e-10,
        backbone: str = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        num_inference_steps: int = 10,
        action_horizon: int = 50,
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
