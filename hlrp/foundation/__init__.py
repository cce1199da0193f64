"""Stage two: a vision-language model that predicts, from one frame, the latent codes of what happens next.

`Foundation.from_checkpoint(path).predict_codes(image, instruction)` turns a frame into codes ``[P]`` in ``[0, K)``.
"""

from typing import TYPE_CHECKING

from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.foundation.checkpoint import FoundationManifest, load_backend, read_manifest
    from hlrp.foundation.config import BackendConfig
    from hlrp.foundation.data_module import FoundationDataModule
    from hlrp.foundation.model import Foundation
    from hlrp.foundation.vla_backend_module import FoundationModule

__all__ = [
    "BackendConfig",
    "Foundation",
    "FoundationDataModule",
    "FoundationManifest",
    "FoundationModule",
    "load_backend",
    "read_manifest",
]

# torch, Lightning and transformers take seconds to import.
__getattr__ = lazy_names(
    __name__,
    {
        "checkpoint": ["FoundationManifest", "load_backend", "read_manifest"],
        "config": ["BackendConfig"],
        "data_module": ["FoundationDataModule"],
        "model": ["Foundation"],
        "vla_backend_module": ["FoundationModule"],
    },
)
