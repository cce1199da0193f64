"""The shape of a latent action quantizer, and its presets."""

from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hlrp.config import LaqModel, LightningRun
from hlrp.errors import UserError, suggest

EFFICIENTNET_LITE0: Final = "efficientnet_lite0"
"""Name of the image model whose weights come as a Python package."""


class FeatureConfig(BaseModel):
    """A frozen image model: its architecture, without weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["transformers", "efficientnet_lite0"]
    width: int = Field(ge=1)
    """Width of a feature."""
    stride: int = Field(ge=1)
    """Pixels of its pictures, down and across, that one feature stands for."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What transformers builds the architecture from."""


def as_square(value: Any) -> Any:
    """One number as height and width; anything else as it is."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


class LAQConfig(BaseModel):
    """Everything that decides the weights' shapes and what the codes mean. Immutable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    image_size: Annotated[tuple[int, int], BeforeValidator(as_square)] = (96, 96)
    """Height and width of the frames in pixels; one number for a square."""
    channels: int = Field(default=3, ge=1)
    patch_size: int = Field(default=12, ge=1)
    """Side of a patch in pixels; must divide height and width."""
    dim: int = Field(default=128, ge=4)
    """Width of encoder and decoder."""
    heads: int = Field(default=4, ge=1)
    spatial_layers: int = Field(default=2, ge=0)
    temporal_layers: int = Field(default=1, ge=0)
    decoder_layers: int = Field(default=2, ge=1)
    num_frames: int = Field(default=2, ge=2)
    """Frames T of a window."""
    offset_seconds: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Time between neighbouring frames of a window."""
    quantizer: Literal["nsvq", "fsq", "vq"] = "nsvq"
    codebook_size: int = Field(default=16, ge=2)
    """Codes K per position."""
    code_seq_len: int = Field(default=4, ge=1)
    """Positions S per transition."""
    code_dim: int = Field(default=32, ge=1)
    """Width D of a code vector."""
    features: FeatureConfig | None = None
    """Image model whose features are read and predicted in place of pixels."""

    @model_validator(mode="after")
    def _check_divisions(self) -> Self:
        height, width = self.image_size
        if min(height, width) < self.patch_size or height % self.patch_size or width % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {height}x{width}")
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of heads ({self.heads}) and of 4")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def feature_width(self) -> int | None:
        """Width of what the encoder reads for a patch; None: pixels."""
        return None if self.features is None else self.features.width

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """The preset ``name`` with ``changes``; changes that are None keep the preset's value.

        Raises:
            UserError: No such preset, or the changed values do not fit together.
        """
        if name not in PRESETS:
            raise UserError(f"unknown LAQ preset {name!r}", where="model.preset", fix=suggest(name, PRESETS))
        values = PRESETS[name] | {key: value for key, value in changes.items() if value is not None}
        try:
            return cls(**values)
        except ValidationError as error:
            problems = "; ".join(
                ": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, "))))
                for e in error.errors()
            )
            preset = cls(**PRESETS[name])
            sizes = f"image_size {list(preset.image_size)}, patch_size {preset.patch_size}, dim {preset.dim}"
            raise UserError(
                f"the latent action quantizer cannot be built: {problems}",
                where="model, data.num_frames, data.offset_seconds",
                fix=f"give values that go together; preset {name!r} has {sizes}, heads {preset.heads}",
            ) from error

    @classmethod
    def from_model(cls, model: LaqModel, *, num_frames: int | None = None, offset_seconds: float | None = None) -> Self:
        """The configuration that a run's ``model`` section asks for, with T and the offset of its ``data`` section."""
        named = {key: value for key, value in model.model_dump().items() if key in cls.model_fields}
        if model.space == "features":
            from hlrp.laq.image_model import read_image_model

            assert model.feature_model is not None, "the schema asks for it"
            named["features"] = read_image_model(model.feature_model)
        return cls.preset(model.preset, **named, num_frames=num_frames, offset_seconds=offset_seconds)

    @classmethod
    def from_run(cls, run: LightningRun) -> Self:
        """The configuration of a run whose model has kind `laq`; its data must be read at these sizes and offsets.

        Raises:
            UserError: The run's settings do not fit together.
        """
        if not isinstance(run.model, LaqModel):
            raise UserError("the run's model is no latent action quantizer", where="model", fix="set model.kind=laq")
        data = run.data
        return cls.from_model(run.model, num_frames=data.num_frames, offset_seconds=data.offset_seconds)


# LAPA's sizes: 256 px, patches of 32, 8 spatial + 8 temporal layers of 1024.
_LAPA = {
    "image_size": 256,
    "patch_size": 32,
    "dim": 1024,
    "heads": 16,
    "spatial_layers": 8,
    "temporal_layers": 8,
    "decoder_layers": 8,
}
PRESETS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        # A CPU learns it in minutes.
        "tiny": {},
        # LAPA: K = 8, S = 4, 0.6 s for robot video.
        "base": _LAPA | {"codebook_size": 8, "offset_seconds": 0.6},
        # HLRP: the same trunk with one code of 2048 per transition.
        "hlrp": _LAPA | {"codebook_size": 2048, "code_seq_len": 1, "offset_seconds": 0.5},
    }
)
"""Presets by name: what differs from the defaults of `LAQConfig`."""
