"""`Groot`: the clean class of LeRobot's policy `groot`.

Made by scripts/make_policy_classes.py from LeRobot's configuration classes: run it, do not edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.policies.clean import CleanPolicy, as_given, frozen, maker_for_dataset, maker_from_pretrained

if TYPE_CHECKING:
    from lerobot.configs.types import NormalizationMode, PolicyFeature
    from lerobot.utils.sample_weighting import SampleWeighter


class Groot(CleanPolicy):
    """GR00T.

    LeRobot's policy `groot`, trained by Lightning. Fields that are not given are LeRobot's
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
        max_state_dim: Width that shorter states are padded to.
        max_action_dim: Width that shorter actions are padded to.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        base_model_path: Path or HuggingFace model ID for the base GR00T N1.7 model whose backbone weights and
            checkpoint sidecars (statistics.json, processor_config.json, ...) are loaded.
        action_decode_transform: Optional named action transform applied after raw N1.7 checkpoint decoding and before
            env.step().
        embodiment_tag: Embodiment tag to use for training (e.g.
        tune_llm: Whether to fine-tune the llm backbone.
        tune_visual: Whether to fine-tune the vision tower.
        tune_projector: Not described by LeRobot.
        tune_diffusion_model: Whether to fine-tune the diffusion model.
        tune_vlln: Whether to fine-tune the VL LayerNorm + VL self-attention projector in the action head.
        tune_top_llm_layers: Number of top LLM backbone layers to fine-tune (0 = none).
        num_inference_timesteps: Inference-time knob: Number of flow-matching denoising steps used to decode an action
            chunk.
        rtc_ramp_rate: Inference-time knob: Real-Time Chunking (RTC) overlap-blend ramp rate, used when the RTC engine
            supplies a previous-chunk prefix.
        use_flash_attention: Inference-time knob: Whether to request the flash-attention-2 kernel for the Qwen3-VL
            backbone. flash-attn is an optional, user-managed optimization; when it is absent (the default), the
            backbone transparently falls back to SDPA, which is numerically equivalent.
        use_relative_actions: Whether actions are made relative to the state.
        relative_exclude_joints: Joints that stay absolute with `use_relative_actions`; none: all are relative.
        optimizer_lr: Learning rate, the peak where there is a schedule.
        optimizer_betas: Adam's decay rates of the first and second moments.
        optimizer_eps: Adam's epsilon.
        optimizer_weight_decay: Weight decay.
        warmup_ratio: Not described by LeRobot.
        use_bf16: Not described by LeRobot.
        model_params_fp32: The native N1.7 fine-tuning recipe keeps model parameters in FP32 and computes under BF16
            autocast.
        image_size: Image sizing is handled by the backbone's image processor.
        tokenizer_assets_repo: Not described by LeRobot.
        lora_rank: Not described by LeRobot.
        lora_alpha: Not described by LeRobot.
        lora_dropout: Not described by LeRobot.
        lora_full_model: Not described by LeRobot.
        video_backend: Not described by LeRobot.
        balance_dataset_weights: Not described by LeRobot.
        balance_trajectory_weights: Not described by LeRobot.
        dataset_paths: Not described by LeRobot.
        output_dir: Not described by LeRobot.
        save_steps: Not described by LeRobot.
        max_steps: Not described by LeRobot.
        batch_size: Not described by LeRobot.
        dataloader_num_workers: Not described by LeRobot.
        report_to: Not described by LeRobot.
        resume: Not described by LeRobot.
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

    lerobot_type = "groot"

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
        chunk_size: int = 40,
        n_action_steps: int = 40,
        max_state_dim: int = 132,
        max_action_dim: int = 132,
        normalization_mapping: "Mapping[str, NormalizationMode | str]" = frozen(
            {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"}
        ),
        base_model_path: str | None = None,
        action_decode_transform: str | None = "auto",
        embodiment_tag: str = "new_embodiment",
        tune_llm: bool = False,
        tune_visual: bool = False,
        tune_projector: bool = True,
        tune_diffusion_model: bool = True,
        tune_vlln: bool = True,
        tune_top_llm_layers: int = 0,
        num_inference_timesteps: int | None = None,
        rtc_ramp_rate: float | None = None,
        use_flash_attention: bool = False,
        use_relative_actions: bool = False,
        relative_exclude_joints: Sequence[str] = frozen([]),
        optimizer_lr: float = 0.0001,
        optimizer_betas: tuple[float, float] = (0.9, 0.999),
        optimizer_eps: float = 1e-08,
        optimizer_weight_decay: float = 1e-05,
        warmup_ratio: float = 0.05,
        use_bf16: bool = True,
        model_params_fp32: bool = True,
        image_size: tuple[int, int] = (256, 256),
        tokenizer_assets_repo: str | None = None,
        lora_rank: int = 0,
        lora_alpha: int = 16,
        lora_dropout: float = 0.1,
        lora_full_model: bool = False,
        video_backend: str = "decord",
        balance_dataset_weights: bool = True,
        balance_trajectory_weights: bool = True,
        dataset_paths: Sequence[str] | None = None,
        output_dir: str = "./tmp/gr00t",
        save_steps: int = 1000,
        max_steps: int = 10000,
        batch_size: int = 32,
        dataloader_num_workers: int = 8,
        report_to: str = "wandb",
        resume: bool = False,
        learning_rate: float = 0.0001,
        lr: float = 0.0001,
        weight_decay: float = 1e-05,
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
