"""Configuration of a foundation model: what it predicts and sees, saved with its weights."""

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hlrp.errors import suggest
from hlrp.foundation.backends.interfaces import BackendMode
from hlrp.foundation.backends.registry import BACKENDS
from hlrp.laq.config import as_square
from hlrp.latents.spec import CodeSpec


class BackendConfig(BaseModel):
    """What, beside the backbone, decides a backend's weights and inputs. Immutable; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    backend: str
    """Its name in `hlrp.foundation.backends.registry`."""
    mode: BackendMode = BackendMode.CODES
    spec: CodeSpec
    """What is predicted."""
    cameras: tuple[str, ...] = Field(min_length=1)
    """Dataset keys of the images, in this order."""
    image_size: Annotated[
        tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None, BeforeValidator(as_square)
    ] = None
    """Height and width that frames are given in; none: as recorded."""
    state_dim: int | None = Field(default=None, ge=1)
    """Numbers of the robot's state; none: the state is not used."""
    max_text_tokens: int = Field(default=48, ge=1)
    """Longest instruction in tokens; longer ones are cut."""
    layers: int | None = Field(default=None, ge=1)
    """First layers of the language model that are kept; none: all."""

    @field_validator("backend")
    @classmethod
    def _check_backend(cls, name: str) -> str:
        if name not in BACKENDS:
            raise ValueError(f"unknown backend {name!r}; {suggest(name, BACKENDS)}")
        return name

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        if self.mode is not BackendMode.CODES and self.spec.vector_dim is None:
            raise ValueError(f"mode {self.mode.value!r} needs spec.vector_dim, the width of the continuous latents")
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras are named twice: {', '.join(self.cameras)}")
        return self
