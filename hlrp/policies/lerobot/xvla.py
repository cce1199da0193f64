"""`XVLA`: the clean class of LeRobot's policy `xvla`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class XVLA(CleanPolicy):
    """X-VLA.

    LeRobot's policy `xvla`, trained by Lightning. Fields that are not given are LeRobot's
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
        dtype: Type of the weights, such as float32 or bfloat16.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        florence_config: Not described by LeRobot.
        tokenizer_name: Tokenizer of the instructions.
        tokenizer_max_length: Longest instruction in tokens.
        tokenizer_padding_side: Side on which short instructions are padded.
        pad_language_to: Padding of the instructions: `longest` of the batch, or `max_length`.
        hidden_size: Not described by LeRobot.
        depth: Not described by LeRobot.
        num_heads: Not described by LeRobot.
        mlp_ratio: Not described by LeRobot.
        num_domains: Not described by LeRobot.
        len_soft_prompts: Not described by LeRobot.
        dim_time: Not described by LeRobot.
        max_len_seq: Not described by LeRobot.
        use_hetero_proj: Not described by LeRobot.
        action_mode: Not described by LeRobot.
        num_denoising_steps: Not described by LeRobot.
        use_proprio: Not described by LeRobot.
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Maximum action dimension for padding (used by "auto" action mode).
        domain_feature_key: Not described by LeRobot.
        resize_imgs_with_padding: Height and width that images are brought to, keeping their proportions.
        num_image_views: Not described by LeRobot.
        empty_cameras: Cameras that are added with empty images.
        freeze_vision_encoder: Freeze VLM vision encoder weights.
        freeze_language_encoder: Freeze VLM language encoder weights.
        train_policy_transformer: Allow policy transformer to train.
        train_soft_prompts: Allow soft prompts to train.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        optimizer_soft_prompt_lr_scale: Scale factor for soft-prompt LR.
        optimizer_soft_prompt_warmup_lr_scale: Start scale for warmup (e.g., 0.01).
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

    lerobot_type = "xvla"

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
        chunk_size: int = 32,
        n_action_steps: int = 32,
        dtype: str = "float32",
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"}
        ),
        florence_config: Mapping[str, Any] = frozen({}),
        tokenizer_name: str = "facebook/bart-large",
        tokenizer_max_length: int = 64,
        tokenizer_padding_side: str = "right",
        pad_language_to: str = "max_length",
        hidden_size: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_domains: int = 30,
        len_soft_prompts: int = 32,
        dim_time: int = 32,
        max_len_seq: int = 512,
        use_hetero_proj: bool = False,
        action_mode: str = "ee6d",
        num_denoising_steps: int = 10,
        use_proprio: bool = True,
        max_state_dim: int = 32,
        max_action_dim: int = 20,
        domain_feature_key: str | None = None,
        resize_imgs_with_padding: tuple[int, int] | None = None,
        num_image_views: int | None = None,
        empty_cameras: int = 0,
        freeze_vision_encoder: bool = False,
        freeze_language_encoder: bool = False,
        train_policy_transformer: bool = True,
        train_soft_prompts: bool = True,
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[float, float] = (0.9, 0.99),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 0.0,
        optimizer_grad_clip_norm: float = 10.0,
        optimizer_soft_prompt_lr_scale: float = 1.0,
        optimizer_soft_prompt_warmup_lr_scale: float | None = None,
        scheduler_warmup_steps: int = 1000,
        scheduler_decay_steps: int = 30000,
        scheduler_decay_lr: float = 2.5e-06,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
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
