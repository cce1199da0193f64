"""Latent labels: what a code means, labelling a dataset, tables and columns of codes, and a run's label sources."""

from typing import TYPE_CHECKING

from hlrp.latents.spec import CodeSpec
from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.latents.table import LatentTable

__all__ = ["CodeSpec", "LatentTable"]

# Reading a table takes numpy and pyarrow; what a code means must not.
__getattr__ = lazy_names(__name__, {"table": ["LatentTable"]})
