"""Backends: vision-language models that predict latents behind one interface."""

from hlrp.foundation.backends.interfaces import BackendMode, FoundationBatch, LatentOutput, LossOutput, VLABackend

__all__ = ["BackendMode", "FoundationBatch", "LatentOutput", "LossOutput", "VLABackend"]
