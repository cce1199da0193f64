"""Stage two: a vision-language model that predicts, from one frame, the latent codes of what happens next.

`Foundation.from_checkpoint(path).predict_codes(image, instruction)` turns a frame into codes ``[P]`` in ``[0, K)``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlrp.foundation.checkpoint import FoundationManifest, load_backend, read_manifest
    from hlrp.foundation.config import BackendConfig
    from hlrp.foundation.data_module import FoundationDataModule
    from hlrp.foundation.model import Foundation
    from hlrp.foundation.vla_backend_module import FoundationModule

# torch, Lightning and transformers take seconds to import.
_LAZY = {
    "BackendConfig": "config",
    "Foundation": "model",
    "FoundationDataModule": "data_module",
    "FoundationManifest": "checkpoint",
    "FoundationModule": "vla_backend_module",
    "load_backend": "checkpoint",
    "read_manifest": "checkpoint",
}

__all__ = [
    "BackendConfig",
    "Foundation",
    "FoundationDataModule",
    "FoundationManifest",
    "FoundationModule",
    "load_backend",
    "read_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hlrp.foundation.{_LAZY[name]}"), name)
