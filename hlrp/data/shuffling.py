"""By which rules the order of a run's samples is made, so that it goes on by those that it began with."""

from typing import Literal

Shuffling = Literal["drawn", "computed"]
"""`drawn`: the order of an epoch is drawn whole, 8 bytes a sample and more. `computed`: that of more samples than
`DRAWN_SAMPLES` is computed place by place, see `Permutation`; that of fewer is drawn."""

SHUFFLING: Shuffling = "computed"
"""Of runs that begin now. Those of hlrp 0.1 know `drawn` alone."""

DRAWN_SAMPLES = 1 << 20
"""So that small runs have the numbers that they always had, and those of LeRobot's own training: 8 MiB."""


def is_drawn(shuffling: Shuffling, samples: int) -> bool:
    """Whether the order of so many samples is drawn whole."""
    return shuffling == "drawn" or samples <= DRAWN_SAMPLES
