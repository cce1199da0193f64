"""The latent action quantizer (LAQ): learns discrete latent actions from video that carries no action labels.

`LAQ.from_checkpoint(path).encode(frames)` turns frames ``[B, T, C, H, W]`` into codes ``[B, T-1, S]`` in ``[0, K)``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hlrp.laq.config import PRESETS, LAQConfig

if TYPE_CHECKING:
    from hlrp.laq.checkpoint import LAQManifest, read_manifest
    from hlrp.laq.model import LAQ, LAQOutput
    from hlrp.laq.module import LAQModule

# torch and Lightning take seconds to import; configuration alone must not.
_LAZY = {
    "LAQ": "model",
    "LAQOutput": "model",
    "LAQModule": "module",
    "LAQManifest": "checkpoint",
    "read_manifest": "checkpoint",
}

__all__ = ["LAQ", "PRESETS", "LAQConfig", "LAQManifest", "LAQModule", "LAQOutput", "read_manifest"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hlrp.laq.{_LAZY[name]}"), name)
