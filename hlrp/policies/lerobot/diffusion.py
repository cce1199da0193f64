"""`Diffusion`: the clean class of LeRobot's policy `diffusion`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class Diffusion(CleanPolicy):
    """Diffusion Policy.

    LeRobot's policy `diffusion`, trained by Lightning. Fields that are not given are LeRobot's
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
        horizon: Diffusion model action prediction size as detailed in `DiffusionPolicy.select_action`.
        n_action_steps: The number of action steps to run in the environment for one invocation of the policy.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        drop_n_last_frames: Horizon - n_action_steps - n_obs_steps + 1.
        vision_backbone: Name of the torchvision resnet backbone to use for encoding images.
        resize_shape: (H, W) shape to resize images to as a preprocessing step for the vision backbone.
        crop_ratio: Ratio in (0, 1] used to derive the crop size from resize_shape (crop_h = int(resize_shape[0] *
            crop_ratio), likewise for width).
        crop_shape: (H, W) shape to crop images to.
        crop_is_random: Whether the crop should be random at training time (it's always a center crop in eval mode).
        pretrained_backbone_weights: Pretrained weights from torchvision to initialize the backbone.
        use_group_norm: Whether to replace batch normalization with group normalization in the backbone.
        spatial_softmax_num_keypoints: Number of keypoints for SpatialSoftmax.
        use_separate_rgb_encoder_per_camera: Whether to use a separate RGB encoder for each camera view.
        down_dims: Feature dimension for each stage of temporal downsampling in the diffusion modeling Unet.
        kernel_size: The convolutional kernel size of the diffusion modeling Unet.
        n_groups: Number of groups used in the group norm of the Unet's convolutional blocks.
        diffusion_step_embed_dim: The Unet is conditioned on the diffusion timestep via a small non-linear network.
        use_film_scale_modulation: FiLM (https://huggingface.co/papers/1709.07871) is used for the Unet conditioning.
        gradient_checkpointing: Whether to checkpoint the Unet residual blocks during training.
        noise_scheduler_type: Name of the noise scheduler to use.
        num_train_timesteps: Number of diffusion steps for the forward diffusion schedule.
        beta_schedule: Name of the diffusion beta schedule as per DDPMScheduler from Hugging Face diffusers.
        beta_start: Beta value for the first forward-diffusion step.
        beta_end: Beta value for the last forward-diffusion step.
        prediction_type: The type of prediction that the diffusion modeling Unet makes.
        clip_sample: Whether to clip the sample to [-`clip_sample_range`, +`clip_sample_range`] for each denoising
            step at inference time.
        clip_sample_range: The magnitude of the clipping range as described above.
        num_inference_steps: Number of reverse diffusion steps to use at inference time (steps are evenly spaced).
        compile_model: Whether the model is compiled by torch.
        compile_mode: Mode of torch.compile.
        do_mask_loss_for_padding: Whether to mask the loss when there are copy-padded actions.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        scheduler_name: Schedule of the learning rate, by diffusers' name.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        learning_rate: Another name of `optimizer_lr`.
        lr: Another name of `optimizer_lr`.
        weight_decay: Another name of `optimizer_weight_decay`.
        pred_horizon: Another name of `horizon`.
        chunk_size: Another name of `horizon`.
        obs_horizon: Another name of `n_obs_steps`.
        action_horizon: Another name of `n_action_steps`.
        num_diffusion_iters: Another name of `num_train_timesteps`.
        backbone: Another name of `vision_backbone`.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        allow_download: Whether weights of an image backbone that are not on this machine may be fetched.
    """

    lerobot_type = "diffusion"

    @as_given
    def __init__(
        self,
        *,
        n_obs_steps: int = 2,
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
        horizon: int = 64,
        n_action_steps: int = 32,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}
        ),
        drop_n_last_frames: int = 7,
        vision_backbone: str = "resnet18",
        resize_shape: tuple[int, int] | None = None,
        crop_ratio: float = 1.0,
        crop_shape: tuple[int, int] | None = None,
        crop_is_random: bool = True,
        pretrained_backbone_weights: str | None = "ResNet18_Weights.IMAGENET1K_V1",
        use_group_norm: bool = False,
        spatial_softmax_num_keypoints: int = 32,
        use_separate_rgb_encoder_per_camera: bool = True,
        down_dims: tuple[int, ...] = (512, 1024, 2048),
        kernel_size: int = 5,
        n_groups: int = 8,
        diffusion_step_embed_dim: int = 128,
        use_film_scale_modulation: bool = True,
        gradient_checkpointing: bool = False,
        noise_scheduler_type: str = "DDPM",
        num_train_timesteps: int = 100,
        beta_schedule: str = "squaredcos_cap_v2",
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        prediction_type: str = "epsilon",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        num_inference_steps: int | None = None,
        compile_model: bool = False,
        compile_mode: str = "reduce-overhead",
        do_mask_loss_for_padding: bool = False,
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[Any, ...] = (0.95, 0.999),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 1e-06,
        scheduler_name: str = "cosine",
        scheduler_warmup_steps: int = 500,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 1e-06,
        pred_horizon: int = 64,
        chunk_size: int = 64,
        obs_horizon: int = 2,
        action_horizon: int = 32,
        num_diffusion_iters: int = 100,
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
