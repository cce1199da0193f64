"""Backends: vision-language models that predict latents behind one interface. Importing this package costs nothing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlrp.foundation.backends.interfaces import (
        BackendMode,
        FoundationBatch,
        LatentOutput,
        LossOutput,
        PrefixBackend,
        VLABackend,
    )

__all__ = ["BackendMode", "FoundationBatch", "LatentOutput", "LossOutput", "PrefixBackend", "VLABackend"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.interfaces"), name)
