"""Backbones: pretrained vision-language models by name or folder, and tiny random ones that need no network."""

from hlrp.foundation.backbones.folders import TINY, check_backbone, make_tiny_backbone, resolve_backbone
from hlrp.foundation.backbones.loading import load_backbone

__all__ = ["TINY", "check_backbone", "load_backbone", "make_tiny_backbone", "resolve_backbone"]
