"""The order in which windows are read: a function of seed and epoch alone, that can be entered anywhere."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

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
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in [0, {world_size})")
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank, self.world_size = rank, world_size
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

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Positions of the whole epoch over all processes, `[batches * global batch]` when shuffled."""
        windows = sum(self.lengths)
        if not self.shuffle:
            padded = math.ceil(windows / self.world_size) * self.world_size
            return np.arange(padded, dtype=np.int64) % max(windows, 1)
        total = self._batches * self.global_batch
        begins = np.cumsum([0, *self.lengths[:-1]])
        generator = np.random.default_rng([self.seed, epoch])
        chosen = []
        for begin, length, count in zip(begins, self.lengths, self._shares(total), strict=True):
            rounds = [generator.permutation(length) for _ in range(math.ceil(count / length))] if length else []
            if rounds:
                chosen.append(begin + np.concatenate(rounds)[:count])
        return generator.permutation(np.concatenate(chosen)).astype(np.int64)

    def _shares(self, total: int) -> list[int]:
        """Samples of each source, summing to ``total``: the largest remainders are rounded up."""
        weights = np.asarray([w if n else 0.0 for w, n in zip(self.weights, self.lengths, strict=True)])
        exact = weights / weights.sum() * total
        shares = np.floor(exact).astype(np.int64)
        for source in np.argsort(shares - exact, kind="stable")[: total - int(shares.sum())]:
            shares[source] += 1
        return [int(n) for n in shares]

    def __iter__(self) -> Iterator[list[int]]:
        # The epoch is read now, not at the first batch: a loader may prefetch while the next epoch is announced.
        start = self._resume_position if self.epoch == self._resume_epoch else 0
        return self._from(self.epoch, start)

    def _from(self, epoch: int, start: int) -> Iterator[list[int]]:
        order = self.order(epoch)
        for batch in range(start, self._batches):
            part = order[batch * self.global_batch : (batch + 1) * self.global_batch]
            yield part[self.rank :: self.world_size].tolist()

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
