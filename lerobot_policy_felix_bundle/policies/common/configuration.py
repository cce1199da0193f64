"""Fields that the policies share. Nothing heavy is imported: LeRobot reads these classes to list its policies.

Importing anything below `lerobot.policies` imports transformers, which is why LeRobot's own `SmolVLAConfig` and
`RTCConfig` are not used here.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs import NormalizationMode
from lerobot.configs.policies import PreTrainedConfig
from lerobot.optim import AdamWConfig, CosineDecayWithWarmupSchedulerConfig

from hlrp.latents.spec import CODE_FIELDS

TINY = "tiny"
VLM_MODES = ("auto", "frozen", "cotrained", "lora")
VLM_DTYPES = ("auto", "float32", "bfloat16")
LATENT_SOURCES = ("none", "precomputed", "online")


@dataclass
class HLRPPolicyConfig(PreTrainedConfig):
    """Fields of every policy of this project.

    Args:
        chunk_size: Actions that are predicted at once.
        n_action_steps: Of these, how many are executed before the next prediction.
        backbone: A SmolVLM's (or, for `hlrp_vla_direct`, Qwen3-VL's) name or folder, or `tiny`: the same architecture,
            small, with random weights. A checkpoint carries what is needed to rebuild it.
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
            bfloat16 for a pretrained SmolVLM (as SmolVLA's), else float32. Adapters and what is trained are float32;
            an action expert beside a bfloat16 VLM is trained in float32 and acts in bfloat16.
        train_vision: Whether a co-trained VLM's vision part is trained; None: for `tiny` only.
        vlm_layers: First layers of the language model that are kept (SmolVLA: 16); None: all.
        lora_rank: Rank of the adapters.
        lora_alpha: Their scale, divided by the rank.
        lora_targets: Names of the language model's layers that get one.
        init_from: A foundation model that the VLM starts from: a run, a checkpoint or a model folder.
        state_statistics: Mean and standard deviation that the state is normalised with, where a foundation model reads
            it: that one's; filled in.
        labelled_episodes: Episodes whose actions and states, statistics of both included, may reach the policy; None:
            all. Of the others it has the pictures, the instruction and the codes.
        state_of_unlabelled: Whether the state of the other episodes is shown all the same; else theirs is the mean.
        use_action_confidence: Whether actions of a dataset with pseudo-labels count by their confidence.
        confidence_dataset: Folder of that dataset; filled in.
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
        action_spaces: Of a mixture with several action spaces, for each the numbers of its `action` and `state`, which
            stand behind one another in those of the policy; filled in.
        action_space: The one to act in; None: the first.
        codebook_size: Codes K per position; this and the following four are taken from the labels or from `init_from`,
            saved, and refused when other labels come later.
        code_seq_len: Codes per transition.
        num_frames: Frames T of a label's window.
        offset_seconds: Time between them.
        laq_sha256: The quantizer's weights.
        latent_weight: Weight of the loss of the codes; that of the actions is 1.
        optimizer_lr: None: 5e-4 for `tiny`, 1e-4 otherwise.
        scheduler_decay_lr: Where the cosine ends, for `optimizer_lr` 1e-4; scaled with it.
    """

    n_obs_steps: int = 1
    chunk_size: int = 16
    n_action_steps: int = 8
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    backbone: str = TINY
    allow_download: bool = False
    image_size: tuple[int, int] | None = None
    max_text_tokens: int = 48
    use_language: bool = True
    use_state: bool = True
    vlm_state: bool | None = None
    vlm: str = "auto"
    vlm_dtype: str = "auto"
    train_vision: bool | None = None
    vlm_layers: int | None = None
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    init_from: str | None = None

    state_statistics: dict[str, list[float]] | None = None
    labelled_episodes: list[int] | None = None
    use_action_confidence: bool = True
    confidence_dataset: str | None = None
    state_of_unlabelled: bool = False
    latent_source: str = "none"
    latent_table: str | None = None
    latent_laq: str | None = None
    latent_camera: str | None = None
    latent_offset_frames: int | None = None
    latent_dataset: str | None = None
    sources: list[dict[str, Any]] | None = None
    action_spaces: dict[str, dict[str, int]] | None = None
    action_space: str | None = None
    codebook_size: int | None = None
    code_seq_len: int | None = None
    num_frames: int | None = None
    offset_seconds: float | None = None
    laq_sha256: str | None = None
    latent_weight: float = 0.1

    optimizer_lr: float | None = None
    optimizer_betas: tuple[float, float] = (0.9, 0.95)
    optimizer_eps: float = 1e-8
    optimizer_weight_decay: float = 1e-10
    optimizer_grad_clip_norm: float = 10.0
    scheduler_warmup_steps: int = 1_000
    scheduler_decay_steps: int = 30_000
    scheduler_decay_lr: float = 2.5e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            1 <= self.n_action_steps <= self.chunk_size,
            f"n_action_steps is {self.n_action_steps}, which is not between 1 and chunk_size ({self.chunk_size})",
        )
        _require(
            self.vlm_state is not False or self.state_beside_vlm,
            "vlm_state is false, and nothing but the VLM would read the state: use_state=false leaves it out",
        )
        _require(self.n_obs_steps == 1, f"n_obs_steps is {self.n_obs_steps}; these policies see a single frame")
        _require(self.vlm in VLM_MODES, f"vlm is {self.vlm!r}; choose from {', '.join(VLM_MODES)}")
        _require(self.vlm_dtype in VLM_DTYPES, f"vlm_dtype is {self.vlm_dtype!r}; choose from {', '.join(VLM_DTYPES)}")
        _require(
            not (self.vlm_dtype == "bfloat16" and self.vlm_mode == "cotrained"),
            "vlm_dtype is bfloat16, but a co-trained VLM's weights stay float32: use mixed precision instead "
            "(hlrp train --precision bf16), or vlm=frozen or lora",
        )
        _require(
            self.latent_source in LATENT_SOURCES,
            f"latent_source is {self.latent_source!r}; choose from {', '.join(LATENT_SOURCES)}",
        )
        _require(self.latent_weight >= 0, f"latent_weight is {self.latent_weight}, it cannot be negative")
        known = self.action_spaces  # of a new policy: not yet
        _require(
            known is None or self.action_space is None or self.action_space in known,
            f"action_space is {self.action_space!r}; the policy knows {', '.join(known or ())}",
        )
        self._check_latents()

    def _check_latents(self) -> None:
        if self.latent_source == "none" and self.latent_table and not self.latent_laq:
            self.latent_source = "precomputed"
        elif self.latent_source == "none" and self.latent_laq and not self.latent_table:
            self.latent_source = "online"
        _require(not (self.latent_table and self.latent_laq), "latent_table and latent_laq exclude each other")
        if self.latent_source == "none":
            self.latent_table = self.latent_laq = None
        _require(
            not (self.latent_source == "online" and not self.latent_laq),
            "latent_source is 'online', which needs latent_laq, the run of a latent action quantizer",
        )
        _require(
            not (self.latent_source == "precomputed" and self.latent_laq),
            "latent_source is 'precomputed', which excludes latent_laq",
        )

    def code_fields(self) -> dict[str, Any]:
        """The fields that say what the codes mean (`CodeSpec`); a checkpoint has them all, a new policy may not yet."""
        return {name: getattr(self, name) for name in CODE_FIELDS}

    @property
    def uses_latents(self) -> bool:
        """Whether the policy has anything to do with codes."""
        return True

    @property
    def predicts(self) -> str:
        """What its VLM predicts, a `BackendMode`."""
        return "codes"

    @property
    def vlm_mode(self) -> str:
        """How the VLM is trained, `auto` resolved: `frozen`, `cotrained` or `lora`."""
        if self.vlm != "auto":
            return self.vlm
        return "cotrained" if self.backbone == TINY else "frozen"

    @property
    def trains_vision(self) -> bool:
        """Whether the VLM's vision part is trained."""
        if self.vlm_mode != "cotrained":
            return False
        return self.backbone == TINY if self.train_vision is None else self.train_vision

    @property
    def learning_rate(self) -> float:
        """Peak learning rate, `None` resolved."""
        if self.optimizer_lr is not None:
            return self.optimizer_lr
        return 5e-4 if self.backbone == TINY else 1e-4

    @property
    def cameras(self) -> tuple[str, ...]:
        """Image features, in the order in which the model sees them."""
        return tuple(self.image_features)

    @property
    def state_beside_vlm(self) -> bool:
        """Whether the state leads to the actions without the VLM."""
        return False

    @property
    def state_dim(self) -> int | None:
        """Width of the state that the model reads; None: it reads none."""
        feature = self.robot_state_feature
        return feature.shape[0] if feature is not None and self.use_state else None

    def blocks(self, kind: str) -> dict[str, range]:
        """Where the numbers of each action space stand in a policy's `action` or `state`; empty with one space."""
        found, first = {}, 0
        for name, widths in (self.action_spaces or {}).items():
            found[name] = range(first, first + widths[kind])
            first = found[name].stop
        return found

    def own_block(self, name: str) -> range | None:
        """Where the numbers of the space that it acts in stand in `action` or `observation.state`; None: it has one."""
        blocks = self.blocks({"action": "action", "observation.state": "state"}[name])
        return blocks[self.action_space or next(iter(blocks))] if blocks else None

    @property
    def action_dim(self) -> int:
        """Width of an action; of all action spaces together."""
        if self.action_spaces is not None:
            # LeRobot replaces the output feature by that of the simulator which the policy acts in.
            return sum(space["action"] for space in self.action_spaces.values())
        if self.action_feature is None:
            raise ValueError("the policy has no output feature 'action'")
        return int(self.action_feature.shape[0])

    def validate_features(self) -> None:
        """Check that there is a camera to see with and an action to learn.

        Raises:
            ValueError: There is not.
        """
        _require(bool(self.image_features), "it needs at least one camera")
        _require(self.action_feature is not None, "it needs an output feature 'action'")

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW, as SmolVLA's."""
        return AdamWConfig(
            lr=self.learning_rate,
            betas=self.optimizer_betas,
            eps=self.optimizer_eps,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        """Warm-up and cosine, as SmolVLA's; LeRobot shortens it to the run."""
        return CosineDecayWithWarmupSchedulerConfig(
            peak_lr=self.learning_rate,
            decay_lr=self.scheduler_decay_lr * self.learning_rate / 1e-4,
            num_warmup_steps=self.scheduler_warmup_steps,
            num_decay_steps=self.scheduler_decay_steps,
        )

    @property
    def observation_delta_indices(self) -> list[int] | None:
        """Frames of an observation; more than the current one only where a quantizer labels them while training."""
        if self.latent_source != "online":
            return None
        frames, seconds = self.num_frames, self.offset_seconds
        if frames is None or self.latent_offset_frames is None:
            from hlrp.laq.checkpoint import read_manifest

            manifest = read_manifest(Path(str(self.latent_laq)))
            frames, seconds = manifest.num_frames, manifest.offset_seconds
        if self.latent_offset_frames is None:
            raise ValueError(
                f"labels made while training need latent_offset_frames: the quantizer's {seconds} s times the "
                "dataset's frames per second (hlrp train fills it in)"
            )
        return [i * self.latent_offset_frames for i in range(frames)]

    @property
    def action_delta_indices(self) -> list[int]:
        """The chunk, from the current frame on."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
