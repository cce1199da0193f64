"""Latent labels: what a code means, labelling a dataset, tables and columns of codes, and a run's label sources."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hlrp.latents.spec import CodeSpec

if TYPE_CHECKING:
    from hlrp.latents.table import LatentTable

# Reading a table takes numpy and pyarrow; what a code means must not.
_LAZY = {"LatentTable": "table"}

__all__ = ["CodeSpec", "LatentTable"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hlrp.latents.{_LAZY[name]}"), name)
