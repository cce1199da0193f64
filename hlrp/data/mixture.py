"""Samples of one dataset or a mixture, addressed by position and gathered a batch at a time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import Dataset, default_collate

from hlrp.data.compact import FrameRanges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Batch = dict[str, Any]


class MixturePart(Protocol):
    """One dataset of a mixture."""

    @property
    def starts(self) -> FrameRanges:
        """Global frame indices at which its samples begin, ascending."""

    def read(self, starts: "NDArray[np.int64]") -> "dict[str, NDArray[Any]]":
        """The samples that begin at ``starts`` ``[n]``, each array with a leading ``n``."""


class Mixture(Dataset[Batch]):
    """Samples of several datasets behind one another.

    A sample is a dictionary that holds `source` (int64 scalar) and what its part reads. Indexing by a list
    (`__getitems__`) gives a whole batch, with a leading `B`, in one copy: use `collate_fn=Mixture.collate` in a
    `DataLoader`.

    Args:
        parts: The datasets.
        weights: How often each is sampled, relative to the others.
    """

    def __init__(self, parts: Sequence[MixturePart], weights: Sequence[float]) -> None:
        self._parts: Sequence[Any] = parts
        self._weights = list(weights)

    def __len__(self) -> int:
        return sum(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """Samples of each source; positions count through the sources in this order."""
        return [len(p.starts) for p in self._parts]

    @property
    def weights(self) -> list[float]:
        """Sampling weight of each source."""
        return list(self._weights)

    def ids(self, positions: Sequence[int] | None = None) -> "NDArray[np.int64]":
        """Stable names of samples: int64 `[n, 2]` of (source, global frame index), all of them by default."""
        import numpy as np

        at = np.arange(len(self)) if positions is None else np.asarray(positions, np.int64)
        ends = np.cumsum(self.lengths)
        source = np.searchsorted(ends, at, side="right")
        index = np.empty(len(at), np.int64)
        for number, part in enumerate(self._parts):
            rows = source == number
            index[rows] = part.starts[at[rows] - (ends[number] - len(part.starts))]
        return np.stack([source, index], axis=1)

    def __getitem__(self, position: int) -> Batch:
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return {k: v[0] for k, v in self.__getitems__([position % len(self)]).items()}

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        import numpy as np

        ids = self.ids(positions)
        parts = []
        for number in np.unique(ids[:, 0]):
            rows = np.flatnonzero(ids[:, 0] == number)
            parts.append((rows, self._parts[number].read(ids[rows, 1])))
        if len(parts) == 1:
            batch = parts[0][1]
        else:
            order = np.argsort(np.concatenate([rows for rows, _ in parts]))
            batch = {k: np.concatenate([values[k] for _, values in parts])[order] for k in parts[0][1]}
        batch["source"] = ids[:, 0]
        return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in batch.items()}

    @staticmethod
    def collate(batch: Batch | list[Batch]) -> Batch:
        """A batch as it is; a list of samples stacked."""
        if isinstance(batch, dict):
            return batch
        collated: Batch = default_collate(batch)
        return collated
