"""Samples as LeRobotDataset gives them, gathered a batch at a time from frames that were decoded once."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hlrp.data.episodes import Episodes
from hlrp.data.filtering import kept_ranges
from hlrp.data.readers import FrameReader
from hlrp.data.shuffling import SHUFFLING, Shuffling
from hlrp.errors import UserError

if TYPE_CHECKING:
    from lerobot.datasets.sampler import EpisodeAwareSampler

    from hlrp.data.frame_order import FrameOrder
    from hlrp.data.sampler import MixtureOrder

Sample = dict[str, Any]


class GatheredSamples(Dataset[Sample]):
    """What `LeRobotDataset.__getitem__` gives, for many frames in one copy; the pixels stay uint8.

    Indexed by global frame index. A list (`__getitems__`) gives a whole batch with a leading `B`, as `default_collate`
    would stack the items: use `collate_fn=GatheredSamples.collate` in a `DataLoader`.

    Args:
        table: Episode table of the dataset.
        columns: From `read_columns`.
        readers: Camera to its frames.
        tasks: Task sentences by `task_index`.
        deltas: Feature to the offsets, in frames, of which a sample has values; others are read at the frame alone.
        single: Cameras whose axis of time is left out where a sample has one frame of them.
    """

    def __init__(
        self,
        table: Episodes,
        columns: Mapping[str, NDArray[Any]],
        readers: Mapping[str, FrameReader],
        *,
        tasks: Sequence[str],
        deltas: Mapping[str, Sequence[int]],
        single: Collection[str],
    ) -> None:
        self._table = table
        self._columns = columns
        self._readers = readers
        self._tasks = list(tasks)
        self._single = frozenset(single)
        self._deltas = {key: np.asarray(offsets, np.int64) for key, offsets in deltas.items()}

    def __len__(self) -> int:
        return self._table.info.frames

    def __getitem__(self, index: int) -> Sample:
        batch = self.__getitems__([index])
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> Sample:
        index = np.asarray(indices, np.int64)
        episode = self._table.episode_of(index)
        first, last = self._table.start[episode], self._table.end[episode] - 1
        batch: Sample = {}
        rows: dict[str, NDArray[np.int64]] = {}
        for key, offsets in self._deltas.items():
            at = index[:, None] + offsets
            rows[key] = np.clip(at, first[:, None], last[:, None])
            batch[f"{key}_is_pad"] = torch.from_numpy(rows[key] != at)
        for key, reader in self._readers.items():
            batch[key] = self._frames(key, reader, rows.get(key, index))
        for key, values in self._columns.items():
            found = values[rows.get(key, index)]
            batch[key] = torch.from_numpy(found) if found.dtype != object else found.tolist()
        batch["task"] = [self._tasks[i] for i in self._columns["task_index"][index]]
        return batch

    def _frames(self, key: str, reader: FrameReader, rows: NDArray[np.int64]) -> Tensor:
        frames = reader.read(rows.reshape(-1)).reshape(*rows.shape, -1, *reader.size)
        if rows.ndim == 2 and rows.shape[1] == 1 and key in self._single:
            frames = frames[:, 0]
        return torch.from_numpy(np.ascontiguousarray(frames))

    @staticmethod
    def collate(batch: Sample | list[Sample]) -> Sample:
        """A batch as it is; a list of samples stacked."""
        from torch.utils.data import default_collate

        if isinstance(batch, dict):
            return batch
        collated: Sample = default_collate(batch)
        return collated


def episode_order(
    table: Episodes,
    episodes: Sequence[int],
    *,
    drop_last: int,
    seed: int,
    relative: Mapping[int, int] | None = None,
    keep: NDArray[np.bool_] | None = None,
    shuffling: Shuffling = SHUFFLING,
) -> "FrameOrder":
    """LeRobot's sampler of the frames of some episodes.

    Args:
        table: Episode table of the dataset.
        episodes: Which.
        drop_last: Frames that are left out at the end of every episode.
        seed: Start of the order.
        relative: Global frame index to the position in the samples; none: they are the same.
        keep: bool `[frames]`: frames that samples may begin at; none: all.
        shuffling: Which rules the order is made by.

    Raises:
        UserError: No frame is left.
    """
    from hlrp.data.frame_order import FrameOrder

    shared: dict[str, Any] = {"shuffle": True, "seed": seed, "absolute_to_relative_idx": relative}
    shared["shuffling"] = shuffling
    try:
        if keep is not None:
            return FrameOrder(*kept_ranges(table, episodes, keep, drop_last=drop_last), **shared)
        starts, ends = table.start.tolist(), table.end.tolist()
        return FrameOrder(starts, ends, episode_indices_to_use=list(episodes), drop_n_last_frames=drop_last, **shared)
    except ValueError as error:
        raise UserError(
            f"no frame is left to train on: {error}",
            where="model.drop_n_last_frames",
            fix="use longer episodes, or a smaller drop_n_last_frames",
        ) from error


class PolicySampler(Sampler[list[int]]):
    """LeRobot's own order of samples in batches, entered anywhere; give it to a `DataLoader` as `batch_sampler`.

    The order is that of `EpisodeAwareSampler`, or a mixture's: a function of seed and epoch. Of N processes each takes
    its part of a global batch, as LeRobot shares them out through Accelerate: the last global batch is filled up from
    the epoch's beginning. One process leaves the last batch short, as LeRobot does.

    Args:
        order: LeRobot's sampler, or that of a mixture.
        batch_size: Samples of a batch of this process, > 0.
        rank: This process, in `[0, world_size)`.
        world_size: Processes.
    """

    def __init__(
        self, order: "EpisodeAwareSampler | MixtureOrder", batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self._order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.global_batch = batch_size * world_size
        self.epoch = self._resume_epoch = self._resume_position = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it is entered."""
        return math.ceil(len(self._order) / self.global_batch)

    @property
    def samples(self) -> int:
        """Samples of a whole epoch, over all processes; those that fill the last global batch up among them."""
        return len(self._order) if self.world_size == 1 else len(self) * self.global_batch

    def __iter__(self) -> Iterator[list[int]]:
        # The epoch is read now, not at the first batch: a loader may prefetch while the next epoch is announced.
        start = self._resume_position if self.epoch == self._resume_epoch else 0
        return self._from(self.epoch, start)

    def _samples(self, epoch: int, start: int) -> Iterator[int]:
        self._order.load_state_dict({"epoch": epoch, "start_index": start})
        return iter(self._order)

    def _from(self, epoch: int, start: int) -> Iterator[list[int]]:
        samples = self._samples(epoch, start * self.global_batch)
        for _ in range(start, len(self)):
            part = list(islice(samples, self.global_batch))
            if self.world_size > 1 and len(part) < self.global_batch:
                part += islice(cycle(self._samples(epoch, 0)), self.global_batch - len(part))
            yield part[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]

    @property
    def sampler(self) -> "PolicySampler":
        """Itself: Lightning calls `set_epoch` on the sampler of a loader's batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next; the one that was loaded keeps its position."""
        self.epoch = epoch

    def signature(self) -> dict[str, Any]:
        """What must be the same for a position to mean the same batch."""
        return {"seed": self._order.seed, "global_batch": self.global_batch, "samples": len(self._order)}

    def state_dict(self) -> dict[str, Any]:
        """Where this sampler was entered."""
        entered = self._resume_position if self.epoch == self._resume_epoch else 0
        return {"epoch": self.epoch, "position": entered, **self.signature()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter epoch ``state["epoch"]`` at batch ``state["position"]``."""
        self.epoch = self._resume_epoch = int(state["epoch"])
        self._resume_position = int(state["position"])


class HeldOutSampler(Sampler[list[int]]):
    """Batches of given positions in order, for validation; all of several processes have the same number.

    Args:
        positions: What to read, in order.
        batch_size: Samples of a batch of this process, > 0.
        rank: This process, in `[0, world_size)`.
        world_size: Processes.
    """

    def __init__(self, positions: Sequence[int], batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        batches = [list(positions[i : i + batch_size]) for i in range(0, len(positions), batch_size)]
        whole = math.ceil(len(batches) / world_size) * world_size
        self._batches = [*islice(cycle(batches), whole)][rank::world_size] if batches else []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)
