"""`VQBeT`: the clean class of LeRobot's policy `vqbet`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class VQBeT(CleanPolicy):
    """VQ-BeT.

    LeRobot's policy `vqbet`, trained by Lightning. Fields that are not given are LeRobot's
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
        n_action_pred_token: Total number of current token and future tokens that VQ-BeT predicts.
        action_chunk_size: Action chunk size of each action prediction token.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        vision_backbone: Name of the torchvision resnet backbone to use for encoding images.
        crop_shape: (H, W) shape to crop images to as a preprocessing step for the vision backbone.
        crop_is_random: Whether the crop should be random at training time (it's always a center crop in eval mode).
        pretrained_backbone_weights: Pretrained weights from torchvision to initialize the backbone.
        use_group_norm: Whether to replace batch normalization with group normalization in the backbone.
        spatial_softmax_num_keypoints: Number of keypoints for SpatialSoftmax.
        n_vqvae_training_steps: Number of optimization steps for training Residual VQ.
        vqvae_n_embed: Number of embedding vectors in the RVQ dictionary (each layer).
        vqvae_embedding_dim: Dimension of each embedding vector in the RVQ dictionary.
        vqvae_enc_hidden_dim: Size of hidden dimensions of Encoder / Decoder part of Residaul VQ-VAE.
        gpt_block_size: Max block size of minGPT (should be larger than the number of input tokens).
        gpt_input_dim: Size of output input of GPT.
        gpt_output_dim: Size of output dimension of GPT.
        gpt_n_layer: Number of layers of GPT.
        gpt_n_head: Number of headers of GPT.
        gpt_hidden_dim: Size of hidden dimensions of GPT.
        dropout: Dropout rate for GPT.
        offset_loss_weight: A constant that is multiplied to the offset loss.
        primary_code_loss_weight: A constant that is multiplied to the primary code prediction loss.
        secondary_code_loss_weight: A constant that is multiplied to the secondary code prediction loss.
        bet_softmax_temperature: Sampling temperature of code for rollout with VQ-BeT.
        sequentially_select: Whether select code of primary / secondary as sequentially (pick primary code, and then
            select secodnary code), or at the same time.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_vqvae_lr: Learning rate of the VQ-VAE.
        optimizer_vqvae_weight_decay: Weight decay of the VQ-VAE.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        learning_rate: Another name of `optimizer_lr`.
        lr: Another name of `optimizer_lr`.
        weight_decay: Another name of `optimizer_weight_decay`.
        hidden_dim: Another name of `gpt_hidden_dim`.
        chunk_size: Another name of `action_chunk_size`.
        codebook_size: Another name of `vqvae_n_embed`.
        backbone: Another name of `vision_backbone`.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "vqbet"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 5,
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
        n_action_pred_token: int = 3,
        action_chunk_size: int = 5,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}
        ),
        vision_backbone: str = "resnet18",
        crop_shape: tuple[int, int] | None = (84, 84),
        crop_is_random: bool = True,
        pretrained_backbone_weights: str | None = "ResNet18_Weights.IMAGENET1K_V1",
        use_group_norm: bool = False,
        spatial_softmax_num_keypoints: int = 32,
        n_vqvae_training_steps: int = 20000,
        vqvae_n_embed: int = 16,
        vqvae_embedding_dim: int = 256,
        vqvae_enc_hidden_dim: int = 128,
        gpt_block_size: int = 500,
        gpt_input_dim: int = 512,
        gpt_output_dim: int = 512,
        gpt_n_layer: int = 8,
        gpt_n_head: int = 8,
        gpt_hidden_dim: int = 512,
        dropout: float = 0.1,
        offset_loss_weight: float = 10000.0,
        primary_code_loss_weight: float = 5.0,
        secondary_code_loss_weight: float = 0.5,
        bet_softmax_temperature: float = 0.1,
        sequentially_select: bool = False,
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[Any, ...] = (0.95, 0.999),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 1e-06,
        optimizer_vqvae_lr: float = 0.001,
        optimizer_vqvae_weight_decay: float = 0.0001,
        scheduler_warmup_steps: int = 500,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 1e-06,
        hidden_dim: int = 512,
        chunk_size: int = 5,
        codebook_size: int = 16,
        backbone: str = "resnet18",
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
