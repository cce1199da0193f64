"""`HLRPActionExpertLatent`: the clean class of LeRobot's policy `hlrp_action_expert_latent`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class HLRPActionExpertLatent(CleanPolicy):
    """Flow-matching action expert, conditioned on latent codes.

    LeRobot's policy `hlrp_action_expert_latent`, trained by Lightning. Fields that are not given are LeRobot's
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
        backbone: A SmolVLM's (or, for `hlrp_vla_direct`, Qwen3-VL's) name or folder, or `tiny`: the same
            architecture, small, with random weights.
        allow_download: Whether the backbone may be fetched.
        image_size: Height and width that images are brought to before the backbone's own resizing; None: as they are,
            or as the foundation model's were.
        max_text_tokens: Longest instruction in tokens; longer ones are cut.
        use_language: Whether the instruction is read.
        use_state: Whether `observation.state` is read, where the dataset has it.
        vlm: `frozen`, `cotrained` or `lora` (needs peft); `auto`: cotrained for `tiny`, frozen for a pretrained one.
        vlm_dtype: What a VLM's weights are kept in where they are not trained: `float32`, `bfloat16`, or `auto`:
            bfloat16 for a pretrained SmolVLM (as SmolVLA's), else float32.
        train_vision: Whether a co-trained VLM's vision part is trained; None: for `tiny` only.
        vlm_layers: First layers of the language model that are kept (SmolVLA: 16); None: all.
        lora_rank: Rank of the adapters.
        lora_alpha: Their scale, divided by the rank.
        lora_targets: Names of the language model's layers that get one.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        labelled_episodes: Episodes whose actions may be trained on; None: all.
        latent_source: Where latent labels come from: `none`, `precomputed` or `online`; `none` with a table or a
            quantizer given becomes what fits it.
        latent_table: A latent table; None with `precomputed`: the dataset's own column `latent_codes`.
        latent_laq: Run of the latent action quantizer that labels `online`.
        latent_camera: The camera whose frames it labels; None: the one that it was trained on.
        latent_offset_frames: Frames of the dataset between the frames of a label; needed with `online`, which has to
            be known before LeRobot opens the dataset.
        latent_dataset: Folder of the dataset that is labelled; filled in.
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
        self_attn_every_n_layers: Layers in between attend across to the VLM alone.
        min_period: Of the time embedding; the shortest.
        max_period: And the longest.
        rtc_config: LeRobot's `RTCConfig`, or its fields, for real-time chunking; None: off.
        conditioning: `tokens`: the codes are extra tokens that the actions attend to; `suffix`: the expert predicts
            them from queries of its own beside the actions, and inference needs none.
        condition_dropout: Share of samples that are trained without codes.
        own_codes: Share of the others, at the end of `own_codes_steps`, that get the VLM's own prediction in place of
            the label; it grows from 0 linearly.
        own_codes_steps: Updates until then.
        learning_rate: Another name of `optimizer_lr`.
        lr: Another name of `optimizer_lr`.
        weight_decay: Another name of `optimizer_weight_decay`.
        optimizer: LeRobot's optimizer configuration as ``{type, lr, ...}``; it then applies to all parameters alike.
        scheduler: LeRobot's scheduler configuration as ``{type, ...}``; ``{type: none}``: a constant rate.
        ema_decay: Decay in (0, 1) of a running average of the weights, which is then what is validated and saved.
        sample_weighter: LeRobot's per-sample weighting, for policies whose loss has `reduction="none"`.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
    """

    lerobot_type = "hlrp_action_expert_latent"

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
        chunk_size: int = 16,
        n_action_steps: int = 8,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
        ),
        backbone: str = "tiny",
        allow_download: bool = False,
        image_size: tuple[int, int] | None = None,
        max_text_tokens: int = 48,
        use_language: bool = True,
        use_state: bool = True,
        vlm: str = "auto",
        vlm_dtype: str = "auto",
        train_vision: bool | None = None,
        vlm_layers: int | None = None,
        lora_rank: int = 16,
        lora_alpha: int = 32,
        lora_targets: Sequence[str] = frozen(["q_proj", "v_proj"]),
        init_from: Path | str | None = None,
        labelled_episodes: Sequence[int] | None = None,
        latent_source: str = "none",
        latent_table: str | None = None,
        latent_laq: str | None = None,
        latent_camera: str | None = None,
        latent_offset_frames: int | None = None,
        latent_dataset: str | None = None,
        codebook_size: int | None = None,
        code_seq_len: int | None = None,
        num_frames: int | None = None,
        offset_seconds: float | None = None,
        laq_sha256: str | None = None,
        latent_weight: float = 0.1,
        optimizer_lr: float | None = None,
        optimizer_betas: tuple[float, float] = (0.9, 0.95),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 1e-10,
        optimizer_grad_clip_norm: float = 10.0,
        scheduler_warmup_steps: int = 1000,
        scheduler_decay_steps: int = 30000,
        scheduler_decay_lr: float = 2.5e-06,
        num_steps: int = 10,
        expert_width_multiplier: float = 0.75,
        self_attn_every_n_layers: int = 2,
        min_period: float = 0.004,
        max_period: float = 4.0,
        rtc_config: Any = None,
        conditioning: str = "tokens",
        condition_dropout: float = 0.1,
        own_codes: float = 0.5,
        own_codes_steps: int = 1000,
        learning_rate: float | None = None,
        lr: float | None = None,
        weight_decay: float = 1e-10,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        ema_decay: float | None = None,
        sample_weighter: "SampleWeighter | None" = None,
        rename_map: dict[str, str] | None = None,
    ) -> None: ...

    from_dataset = maker_for_dataset(__init__)
    from_pretrained = maker_from_pretrained(__init__)  # type: ignore[assignment]
