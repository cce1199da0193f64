"""LeRobot's sampler of frames, whose order is computed place by place where there are very many of them."""

from collections.abc import Iterator
from typing import Any

from lerobot.datasets.sampler import EpisodeAwareSampler

from hlrp.data.computed_order import places
from hlrp.data.permutation import Permutation
from hlrp.data.shuffling import SHUFFLING, Shuffling, is_drawn


class FrameOrder(EpisodeAwareSampler):
    """`EpisodeAwareSampler`, and up to `DRAWN_SAMPLES` frames its very order.

    Args:
        *args: LeRobot's.
        shuffling: Which rules the order is made by.
        **kwargs: LeRobot's.
    """

    def __init__(self, *args: Any, shuffling: Shuffling = SHUFFLING, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shuffling = shuffling

    def __iter__(self) -> Iterator[int]:
        """The frames of the next epoch, from where it is entered."""
        if not self.shuffle or is_drawn(self.shuffling, len(self)):
            return super().__iter__()
        state = self.state_dict()
        EpisodeAwareSampler.load_state_dict(self, {"epoch": state["epoch"] + 1, "start_index": 0})
        return self._computed(state["epoch"], state["start_index"])

    def _computed(self, epoch: int, start: int) -> Iterator[int]:
        order = Permutation(len(self), self.seed, epoch)
        for block in places(start, len(self)):
            yield from (self._frame_index(number) for number in order(block).tolist())
