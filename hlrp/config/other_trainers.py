"""Trainers that other packages add: entry points of a group, found without importing them."""

from importlib import metadata

GROUP = "hlrp.trainers"
"""Group of entry points; of each, the name is the `trainer_type`, the value `module:Class`."""


def other_trainers() -> dict[str, str]:
    """`trainer_type` to `module:Class` of every installed package's trainers."""
    return {found.name: found.value for found in metadata.entry_points(group=GROUP)}
