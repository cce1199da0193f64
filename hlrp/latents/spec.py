"""What a latent code means: the one class that every file with codes carries, and how two of them differ."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from hlrp.laq.config import LAQConfig


class Difference(NamedTuple):
    """One thing in which codes are not what is asked for.

    Args:
        what: Its name for people.
        here: What it is.
        asked: What is asked for.
    """

    what: str
    here: object
    asked: object


def describe(differences: Iterable[Difference], here: str, asked: str) -> str:
    """Differences as one phrase that names both sides, such as "the table" and "the policy"; empty for none."""
    return "; ".join(f"{d.what}: {here} has {d.here}, {asked} {d.asked}" for d in differences)


class CodeSpec(BaseModel):
    """What codes, or continuous latents, mean. Immutable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    NAMES: ClassVar[dict[str, str]] = {
        "codebook_size": "codes K",
        "code_seq_len": "code positions S of a transition",
        "num_frames": "frames T of a window",
        "offset_seconds": "offset in seconds",
        "laq_sha256": "quantizer (SHA-256 of its weights)",
        "vector_dim": "width of the continuous latents",
    }
    """Every field as people are told of it."""

    codebook_size: int = Field(ge=2)
    """Codes K per position."""
    code_seq_len: int = Field(ge=1)
    """Codes S per transition between neighbouring frames."""
    num_frames: int = Field(ge=2)
    """Frames T of a label's window, the current one included."""
    offset_seconds: float = Field(gt=0, allow_inf_nan=False)
    """Time between neighbouring frames of the window."""
    laq_sha256: str
    """SHA-256 of the weights of the quantizer that the codes come from."""
    vector_dim: int | None = Field(default=None, ge=1)
    """Width D of the continuous latents; none: there are only codes."""

    @classmethod
    def of_quantizer(cls, config: "LAQConfig", sha256: str, *, vectors: bool = False) -> Self:
        """What the codes of a quantizer mean.

        Args:
            config: The quantizer's.
            sha256: SHA-256 of its weights.
            vectors: Whether its continuous latents are kept too.
        """
        return cls(
            codebook_size=config.codebook_size,
            code_seq_len=config.code_seq_len,
            num_frames=config.num_frames,
            offset_seconds=config.offset_seconds,
            laq_sha256=sha256,
            vector_dim=config.code_dim if vectors else None,
        )

    @property
    def positions(self) -> int:
        """Codes P of a whole window: (T - 1) * S, those of the earliest transition first."""
        return (self.num_frames - 1) * self.code_seq_len

    def codes(self, *, vectors: bool = False) -> "CodeSpec":
        """The meaning alone, without what a subclass adds, and without continuous latents unless ``vectors``."""
        values = {name: getattr(self, name) for name in CodeSpec.model_fields}
        return CodeSpec(**values if vectors else values | {"vector_dim": None})

    def differences(self, asked: "CodeSpec | Mapping[str, object]") -> list[Difference]:
        """Where these codes are not those that are asked for.

        Args:
            asked: Another specification, of which every field has to agree; or some fields by name, of which those that
                are None are not asked for.
        """
        if isinstance(asked, CodeSpec):
            wanted: Mapping[str, object] = asked.model_dump()
        else:
            wanted = {name: value for name, value in asked.items() if value is not None}
        pairs = ((name, getattr(self, name), value) for name, value in wanted.items())
        return [Difference(self.NAMES[name], here, value) for name, here, value in pairs if here != value]


CODE_FIELDS = tuple(name for name in CodeSpec.model_fields if name != "vector_dim")
"""Fields that say what the codes themselves mean."""
