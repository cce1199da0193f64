"""Backends: vision-language models that predict latents behind one interface. Importing this package costs nothing."""

from typing import TYPE_CHECKING

from hlrp.lazy import lazy_names

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

__getattr__ = lazy_names(__name__, {"interfaces": __all__})
