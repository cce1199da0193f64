"""What is trained: the `model` section of a run's configuration."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from hlrp.aliases import resolve_policy_aliases
from hlrp.config.base import Episodes, FilePath, Settings, parse_episodes, unique_episodes
from hlrp.config.trainer_sections import ClassPath
from hlrp.config.tree import normalise

_NOT_POLICY_FIELDS = {
    "device": "trainer.device",
    "use_amp": "trainer.precision",
    "push_to_hub": "push_to_hub",
    "pretrained_path": "model.init_from",
    "path": "model.init_from",
    "kind": "trainer_type: lightning, without policy_type, to train a model of a kind",
}


class PolicyModel(Settings):
    """A policy that LeRobot knows. Keys other than these two are fields of the policy's own configuration class."""

    model_config = ConfigDict(extra="allow")

    policy_type: str = Field(min_length=1)
    """Name of the policy, such as act, diffusion, vqbet, smolvla; `hlrp policies` lists them."""
    init_from: str | None = None
    """Weights to start from: a run, a checkpoint folder, or a repository name."""

    @model_validator(mode="before")
    @classmethod
    def _accept_spellings(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        spelt: dict[str, Any] = normalise({"model": value})["model"]
        if "labelled_episodes" in spelt:  # as text too, like `data.episodes`, which it often repeats
            spelt["labelled_episodes"] = parse_episodes(spelt["labelled_episodes"])
        return spelt

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        for name in self.model_extra or {}:
            if name in _NOT_POLICY_FIELDS:
                raise ValueError(f"'{name}' is not set among the policy's fields: use {_NOT_POLICY_FIELDS[name]}")
        resolve_policy_aliases(self.policy_type, self.model_extra or {})
        return self

    @property
    def policy_fields(self) -> dict[str, Any]:
        """The policy's own fields in the order given, aliases replaced by LeRobot's names."""
        return resolve_policy_aliases(self.policy_type, self.model_extra or {})


def _square(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


class LaqModel(Settings):
    """A latent action quantizer, trained from video alone."""

    kind: Literal["laq"]
    preset: Literal["tiny", "base", "hlrp"] = "base"
    quantizer: Literal["nsvq", "fsq", "vq"] = "nsvq"
    codebook_size: int | None = Field(default=None, ge=2)
    """Codes K per position; none: the preset's."""
    code_seq_len: int | None = Field(default=None, ge=1)
    """Positions S per transition; none: the preset's."""
    image_size: Annotated[
        tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None, BeforeValidator(_square)
    ] = None
    """Height and width that frames are resized to, or one number for a square; none: the preset's."""
    patch_size: int | None = Field(default=None, ge=1)
    """Side of a patch in pixels, dividing height and width; none: the preset's."""
    background_weight: float = Field(default=0.1, ge=0, le=1)
    """Weight of pixels that do not move in the loss; those that move have 1."""
    feature_model: Literal["efficientnet_lite0"] | FilePath | None = None
    """Folder of an image model such as DINOv2, or efficientnet_lite0, which a package carries; with it, its features of
    the following frame are predicted too."""
    feature_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    space: Literal["pixels", "features"] = "pixels"
    """What the quantizer reads and what its codes are to tell: pixels, or features of `feature_model` alone."""
    labelled_episodes: Episodes | None = None
    """Episodes whose recorded actions an action head learns to tell from the latents; none: video alone."""
    action_weight: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Weight of the action head's loss."""
    labelled_share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the samples that comes from labelled episodes."""
    flow_model: FilePath | None = None
    """RAFT weights as a safetensors file; with it, the optical flow is predicted too."""
    flow_weight: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    """Reached over the first quarter of the run."""
    init_from: str | None = None

    _unique = field_validator("labelled_episodes")(lambda value: value and unique_episodes(value))

    @model_validator(mode="after")
    def _check_space(self) -> Self:
        if self.space == "features" and self.feature_model is None:
            raise ValueError("'space: features' needs 'feature_model', the image model whose features are meant")
        return self


class LoraSection(Settings):
    """Low-rank adapters on the language model, whose own weights then stay as they are."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    """Adapters are scaled by alpha / rank."""
    targets: list[str] = Field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1)
    """Last parts of the names of the layers that get one."""


class FoundationModel(Settings):
    """A vision-language model that predicts, from one frame, the latent codes of what happens next."""

    kind: Literal["foundation"]
    backend: str = Field(default="smol_latent_head", min_length=1)
    """Architecture of the vision-language model, by its name in `hlrp.foundation.backends.registry`."""
    backbone: str | None = Field(default=None, min_length=1)
    """A pretrained model's name or local folder, or `tiny`: the same architecture, small, random weights. None: that of
    `init_from`, else `tiny`."""
    mode: Literal["codes", "vectors", "flow"] = "codes"
    """What is predicted: codes, or continuous latents by regression or by flow matching."""
    image_size: Annotated[
        tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None, BeforeValidator(_square)
    ] = None
    """Height and width that frames are read at, or one number for a square; none: as recorded."""
    use_state: bool = False
    """Whether `observation.state` is an input."""
    layers: int | None = Field(default=None, ge=1)
    """First layers of the language model that are kept; none: all."""
    max_text_tokens: int = Field(default=48, ge=1)
    """Longest instruction in tokens; longer ones are cut."""
    train_vision: bool | None = None
    """Whether the vision part is trained; none: only that of `tiny`."""
    train_language: bool = True
    """Whether the language model is trained; the head always is."""
    lora: LoraSection | None = None
    init_from: str | None = None
    """Run or checkpoint of a foundation model to start from."""

    @model_validator(mode="after")
    def _check_lora(self) -> Self:
        if self.lora is not None and not self.train_language:
            raise ValueError("'lora' trains the language model, but 'train_language' is false")
        return self


def _model_kind(value: Any) -> str | None:
    if isinstance(value, dict):
        kind = value.get("kind")
        if "policy_type" in value or "type" in value:
            return "policy"
        return "class" if "class_path" in value else kind if kind in ("laq", "foundation") else None
    tags: dict[type, str] = {PolicyModel: "policy", LaqModel: "laq", FoundationModel: "foundation", ClassPath: "class"}
    return tags.get(type(value))


LightningModel = Annotated[
    Annotated[PolicyModel, Tag("policy")]
    | Annotated[LaqModel, Tag("laq")]
    | Annotated[FoundationModel, Tag("foundation")]
    | Annotated[ClassPath, Tag("class")],
    Discriminator(
        _model_kind,
        custom_error_type="model_kind",
        custom_error_message="needs 'policy_type', or 'kind' (laq or foundation), or 'class_path'",
    ),
]
"""What Lightning can train."""
