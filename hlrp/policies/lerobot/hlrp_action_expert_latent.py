"""`HLRPActionExpertLatent`: LeRobot's policy `hlrp_action_expert_latent` as a class. Made by scripts/make_policy_classes.py: run it, do not edit."""

from hlrp.policies.clean import CleanPolicy


class HLRPActionExpertLatent(CleanPolicy):
    """Flow-matching action expert, conditioned on latent codes.

    LeRobot's policy `hlrp_action_expert_latent`, trained by Lightning; `CleanPolicy` says what all policies take.
    Other names: `learning_rate`, `lr` for `optimizer_lr`; `weight_decay` for `optimizer_weight_decay`.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        backbone: A SmolVLM's (or, for `hlrp_vla_direct`, Qwen3-VL's) name or folder, or `tiny`: the same
            architecture, small, with random weights.
        allow_download: Whether the backbone may be fetched.
        image_size: Height and width that images are brought to before the backbone's own resizing; None: as they are,
            or as the foundation model's were.
        max_text_tokens: Longest instruction in tokens; longer ones are cut.
        use_language: Whether the instruction is read.
        use_state: Whether `observation.state` is read, where the dataset has it.
        vlm_state: Whether the VLM reads it too, as a token; None: as `init_from` did where that stays frozen and the
            state leads to the actions without it, else true; filled in.
        vlm: `frozen`, `cotrained` or `lora` (needs peft); `auto`: cotrained for `tiny`, frozen for a pretrained one.
        vlm_dtype: What a VLM's weights are kept in where they are not trained: `float32`, `bfloat16`, or `auto`:
            bfloat16 for a pretrained SmolVLM (as SmolVLA's), else float32.
        train_vision: Whether a co-trained VLM's vision part is trained; None: for `tiny` only.
        vlm_layers: First layers of the language model that are kept (SmolVLA: 16); None: all.
        lora_rank: Rank of the adapters.
        lora_alpha: Their scale, divided by the rank.
        lora_targets: Names of the language model's layers that get one.
        state_statistics: Mean and standard deviation that the state is normalised with, where a foundation model
            reads it: that one's; filled in.
        labelled_episodes: Episodes whose actions and states, statistics of both included, may reach the policy; None:
            all.
        use_action_confidence: Whether actions of a dataset with pseudo-labels count by their confidence.
        confidence_dataset: Folder of that dataset; filled in.
        state_of_unlabelled: Whether the state of the other episodes is shown all the same; else theirs is the mean.
        latent_source: Where latent labels come from: `none`, `precomputed` or `online`; `none` with a table or a
            quantizer given becomes what fits it.
        latent_table: A latent table; None with `precomputed`: the dataset's own column `latent_codes`.
        latent_laq: Run of the latent action quantizer that labels `online`.
        latent_camera: The camera whose frames it labels; None: the one that it was trained on.
        latent_offset_frames: Frames of the dataset between the frames of a label; needed with `online`, which has to
            be known before LeRobot opens the dataset.
        latent_dataset: Folder of the dataset that is labelled; filled in.
        sources: Of a mixture of datasets, for each its `frames` and `root`, and whether its labels are in a `table`,
            its own `column` or nowhere, and its actions have `confidence`; filled in.
        action_spaces: Of a mixture with several action spaces, for each the numbers of its `action` and `state`,
            which stand behind one another in those of the policy; filled in.
        action_space: The one to act in; None: the first.
        codebook_size: Codes K per position; this and the following four are taken from the labels or from
            `init_from`, saved, and refused when other labels come later.
        code_seq_len: Codes per transition.
        num_frames: Frames T of a label's window.
        offset_seconds: Time between them.
        laq_sha256: The quantizer's weights.
        latent_weight: Weight of the loss of the codes; that of the actions is 1.
        optimizer_lr: None: 5e-4 for `tiny`, 1e-4 otherwise.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        optimizer_grad_clip_norm: Norm at which gradients are clipped.
        scheduler_warmup_steps: Steps over which the learning rate rises.
        scheduler_decay_steps: Step at which the decay of the learning rate ends; shortened to the run.
        scheduler_decay_lr: Where the cosine ends, for `optimizer_lr` 1e-4; scaled with it.
        num_steps: Denoising steps of a chunk.
        expert_width_multiplier: Width of the expert, of the VLM's.
        self_attn_every_n_layers: Layers in between attend across to the VLM alone; None: 2, or as the policy needs
            it.
        min_period: Of the time embedding; the shortest.
        max_period: And the longest.
        rtc_config: LeRobot's `RTCConfig`, or its fields, for real-time chunking; None: off.
        compile_model: Whether torch.compile compiles the VLM and the denoising step, for training and for acting.
        compile_mode: `torch.compile`'s mode for the denoising step: `reduce-overhead` makes a CUDA graph of it.
        conditioning: `bottleneck`: the actions see the codes and the state in every layer, and of the observation no
            more than `bottleneck_prefix`; `tokens`: the codes are extra tokens beside the whole observation, which
            the actions learn to do without; `suffix`: the expert predicts them from queries of its own beside the
            actions, and inference needs none.
        bottleneck_prefix: With `bottleneck`, what the actions see of the observation beside codes and state: `none`,
            or `kept`, all of it but where it is dropped.
        prefix_dropout: With `kept`, share of samples that are trained without it.
        condition_dropout: Share of samples that are trained without codes.
        soft_codes: Give the expert the expected embedding under the VLM's prediction in place of the likeliest
            codes'; None: with `bottleneck`.
        own_codes: Share of the samples that get the VLM's own prediction in place of the label, in the end; it grows
            from 0 linearly.
        own_codes_warmup: Until when it grows, as a share of the run's steps.
        run_steps: Steps of the run; `hlrp train` fills it in.
        own_codes_steps: Deprecated: the updates until then, in place of `own_codes_warmup`.
        expert_grad_to_vlm: Whether the loss of the actions trains the VLM; None: not with `bottleneck`.
    """

    lerobot_type = "hlrp_action_expert_latent"
