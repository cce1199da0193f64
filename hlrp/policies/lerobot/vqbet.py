"""`VQBeT`: LeRobot's policy `vqbet` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class VQBeT(CleanPolicy):
    """VQ-BeT.

    LeRobot's policy `vqbet`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`; `hidden_dim`
    for `gpt_hidden_dim`; `chunk_size` for `action_chunk_size`; `codebook_size` for `vqvae_n_embed`; `backbone` for
    `vision_backbone`.

    Args:
        n_action_pred_token: Total number of current token and future tokens that VQ-BeT predicts.
        action_chunk_size: Action chunk size of each action prediction token.
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
    """

    lerobot_type = "vqbet"
