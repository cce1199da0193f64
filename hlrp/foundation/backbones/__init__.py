"""Backbones: pretrained vision-language models by name or folder, and tiny random ones that need no network."""
