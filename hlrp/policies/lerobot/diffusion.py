"""`Diffusion`: LeRobot's policy `diffusion` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class Diffusion(CleanPolicy):
    """Diffusion Policy.

    LeRobot's policy `diffusion`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`;
    `pred_horizon`, `chunk_size` for `horizon`; `obs_horizon` for `n_obs_steps`; `action_horizon` for
    `n_action_steps`; `num_diffusion_iters` for `num_train_timesteps`; `backbone` for `vision_backbone`.

    Args:
        horizon: Diffusion model action prediction size as detailed in `DiffusionPolicy.select_action`.
        n_action_steps: The number of action steps to run in the environment for one invocation of the policy.
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
    """

    lerobot_type = "diffusion"
