"""The order in which windows and mixtures are read: a function of seed and epoch alone, to be entered anywhere."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from hlrp.data.computed_order import PieceEpoch, ShuffledEpoch, SpreadEpoch, places, shares
from hlrp.data.shuffling import SHUFFLING, Shuffling, is_drawn
from hlrp.errors import UserError


class ResumableSampler(Sampler[list[int]]):
    """Batches of positions in a `FrameWindows`; give it to a `DataLoader` as `batch_sampler`.

    The global batches depend on the seed, the epoch and the global batch size (``batch_size * world_size``). Every
    process takes its share of each, so N processes at batch B/N see the same global batches as one at batch B.

    An epoch has as many samples as there are windows, less the last incomplete global batch. Of several sources, each
    gives its share by weight: a small one is passed over several times, a large one gives another part each epoch.

    Args:
        lengths: Windows of each source; positions count through the sources in this order.
        batch_size: Samples of a batch of this process, > 0.
        weights: How often each source is sampled relative to the others; none: by its number of windows.
        seed: Start of the order, >= 0.
        shuffle: False: in order, nothing left out, each sample once (up to ``world_size - 1`` of them twice, so that
            all processes have the same number).
        rank: This process, in `[0, world_size)`.
        world_size: Processes.
        shuffling: Which rules the order is made by.
        pieces: The positions after the last ones of the files of one source, ascending: an epoch goes through them in
            a random order, `together` at a time. None: through all at once.
        together: How many files samples are drawn from at a time.

    Raises:
        UserError: Fewer windows than one global batch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        shuffling: Shuffling = SHUFFLING,
        pieces: NDArray[np.int64] | None = None,
        together: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in [0, {world_size})")
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle, self.shuffling = shuffle, shuffling
        self.rank, self.world_size = rank, world_size
        self._pieces, self._together = pieces, together
        self.weights = list(weights) if weights is not None else [float(n) for n in lengths]
        self.global_batch = batch_size * world_size
        windows = sum(lengths)
        self._batches = windows // self.global_batch if shuffle else math.ceil(windows / self.global_batch)
        if self._batches == 0 and shuffle:
            raise UserError(
                f"{windows} windows are fewer than one batch of {self.global_batch}",
                where="trainer.batch_size",
                fix="use a smaller batch, or more episodes",
            )
        self.epoch = self._resume_epoch = self._resume_position = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it is entered."""
        return self._batches

    @property
    def samples(self) -> int:
        """Samples of a whole epoch, over all processes."""
        return len(self.order(0)) if not self.shuffle else self._batches * self.global_batch

    def order(self, epoch: int) -> "_Epoch":
        """Positions of the whole epoch over all processes, `batches * global batch` of them when shuffled."""
        windows = sum(self.lengths)
        if not self.shuffle:
            return _InOrder(windows, math.ceil(windows / self.world_size) * self.world_size)
        total = self._batches * self.global_batch
        if self._pieces is not None:
            return PieceEpoch(self._pieces, self._together, total, self.seed, epoch)
        if is_drawn(self.shuffling, total):
            return _Drawn(self._drawn(epoch, total))
        return ShuffledEpoch(self.lengths, self.weights, total, self.seed, epoch)

    def _drawn(self, epoch: int, total: int) -> NDArray[np.int64]:
        begins = np.cumsum([0, *self.lengths[:-1]])
        generator = _generator(self.seed, epoch)
        chosen = []
        counts = shares(self.lengths, self.weights, total)
        for begin, length, count in zip(begins, self.lengths, counts, strict=True):
            if count:
                chosen.append(begin + _passes(length, count, generator))
        return generator.permutation(np.concatenate(chosen)).astype(np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        # The epoch is read now, not at the first batch: a loader may prefetch while the next epoch is announced.
        start = self._resume_position if self.epoch == self._resume_epoch else 0
        return self._from(self.epoch, start)

    def _from(self, epoch: int, start: int) -> Iterator[list[int]]:
        order = self.order(epoch)
        for batch in range(start, self._batches):
            first = batch * self.global_batch
            mine = np.arange(first + self.rank, min(first + self.global_batch, len(order)), self.world_size)
            yield order(mine).tolist()

    @property
    def sampler(self) -> "ResumableSampler":
        """Itself: Lightning calls `set_epoch` on the sampler of a loader's batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next; the one that was loaded keeps its position."""
        self.epoch = epoch

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """Where a run stands.

        Args:
            position: Batches of this epoch that were trained on; a loader reads ahead, so only the trainer knows.
                None: where this sampler was entered.
        """
        entered = self._resume_position if self.epoch == self._resume_epoch else 0
        return {"epoch": self.epoch, "position": entered if position is None else position, **self.signature()}

    def signature(self) -> dict[str, Any]:
        """What must be the same for a position to mean the same batch."""
        return {
            "seed": self.seed,
            "global_batch": self.global_batch,
            "lengths": self.lengths,
            "weights": self.weights,
            "shuffling": self.shuffling,
            "files": None if self._pieces is None else [len(self._pieces), self._together],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter epoch ``state["epoch"]`` at batch ``state["position"]``.

        Raises:
            UserError: The state is of another order: other data, weights, seed or global batch.
        """
        for key, here in self.signature().items():
            if key in state and state[key] != here:
                raise UserError(
                    f"the order of the data cannot continue: {key} was {state[key]} and is now {here}",
                    where="--resume",
                    fix="resume with the data, seed, batch size and processes of the run, or start a new one",
                )
        self.epoch = self._resume_epoch = int(state["epoch"])
        self._resume_position = int(state["position"])


class MixtureOrder:
    """A weighted order through the samples of several sources, with what LeRobot's loop asks of its own sampler.

    An epoch has as many samples as there are, and is a function of the seed and its number. Each source gives its share
    by weight, spread evenly, so that every stretch of the order, each batch too, has its share of every source to
    within a sample. A small source is passed over several times, a large one gives another part each epoch.

    Args:
        lengths: Samples of each source; positions count through the sources in this order.
        weights: How often each source is sampled relative to the others, > 0.
        seed: Start of the order, >= 0.
        shuffling: Which rules the order is made by.
    """

    def __init__(
        self, lengths: Sequence[int], weights: Sequence[float], *, seed: int = 0, shuffling: Shuffling = SHUFFLING
    ) -> None:
        self.lengths, self.weights, self.seed, self.shuffling = list(lengths), list(weights), seed, shuffling
        self._epoch = self._start_index = 0

    def __len__(self) -> int:
        """Samples of a whole epoch, wherever it is entered."""
        return sum(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # As LeRobot's does: the next pass is another epoch, as soon as this one is asked for.
        epoch, start = self._epoch, self._start_index
        self._epoch, self._start_index = epoch + 1, 0
        if is_drawn(self.shuffling, len(self)):
            return iter(self._drawn(epoch)[start:].tolist())
        order = SpreadEpoch(self.lengths, self.weights, self.seed, epoch)
        return (position for block in places(start, len(self)) for position in order(block).tolist())

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        generator = _generator(self.seed, epoch)
        begins = np.cumsum([0, *self.lengths[:-1]])
        chosen, moments = [], []
        counts = shares(self.lengths, self.weights, len(self))
        for begin, length, count in zip(begins, self.lengths, counts, strict=True):
            if count:
                chosen.append(begin + _passes(length, count, generator))
                moments.append((np.arange(count) + generator.random()) / count)
        order = np.argsort(np.concatenate(moments), kind="stable")
        return np.concatenate(chosen)[order].astype(np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Where the next pass begins."""
        return {"epoch": self._epoch, "start_index": self._start_index}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Have the next pass begin at sample ``state["start_index"]`` of epoch ``state["epoch"]``."""
        self._epoch, self._start_index = state["epoch"], state["start_index"]


def _generator(seed: int, epoch: int) -> np.random.Generator:
    """Random numbers of one epoch, the same in every process."""
    return np.random.default_rng([seed, epoch])


def _passes(length: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """``count`` of ``length`` samples in a random order, each once before any comes again."""
    rounds = [generator.permutation(length) for _ in range(math.ceil(count / length))]
    return np.concatenate(rounds)[:count]


class _Epoch(Protocol):
    """The positions of an epoch by their places in it."""

    def __len__(self) -> int: ...

    def __call__(self, places: NDArray[np.int64], /) -> NDArray[np.int64]: ...


class _InOrder:
    """All positions, then the first ones again up to ``total``."""

    def __init__(self, length: int, total: int) -> None:
        self._length, self._total = length, total

    def __len__(self) -> int:
        return self._total

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return places % max(self._length, 1)


class _Drawn:
    """An order that lies in memory."""

    def __init__(self, positions: NDArray[np.int64]) -> None:
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._positions[places]
