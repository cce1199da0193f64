"""The latent action quantizer (LAQ): learns discrete latent actions from video that carries no action labels.

`LAQ.from_checkpoint(path).encode(frames)` turns frames ``[B, T, C, H, W]`` into codes ``[B, T-1, S]`` in ``[0, K)``.
"""

from typing import TYPE_CHECKING

from hlrp.laq.config import PRESETS, LAQConfig
from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.laq.checkpoint import LAQManifest, read_manifest
    from hlrp.laq.model import LAQ, LAQOutput
    from hlrp.laq.module import LAQModule

__all__ = ["LAQ", "PRESETS", "LAQConfig", "LAQManifest", "LAQModule", "LAQOutput", "read_manifest"]

# torch and Lightning take seconds to import; configuration alone must not.
__getattr__ = lazy_names(
    __name__, {"checkpoint": ["LAQManifest", "read_manifest"], "model": ["LAQ", "LAQOutput"], "module": ["LAQModule"]}
)
