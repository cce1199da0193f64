"""Random orders of the samples of several sources, computed place by place; see `hlrp.data.sampler`."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hlrp.data.permutation import Permutation

_BLOCK = 4096
_KEPT_PASSES = 64


def places(start: int, end: int) -> Iterator[NDArray[np.int64]]:
    """The numbers from ``start`` up to ``end`` in blocks that cost little to compute with."""
    for first in range(start, end, _BLOCK):
        yield np.arange(first, min(first + _BLOCK, end))


def shares(lengths: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """Samples of each source, summing to ``total``: the largest remainders are rounded up; an empty one gives none."""
    there = np.asarray([w if n else 0.0 for w, n in zip(weights, lengths, strict=True)])
    exact = there / there.sum() * total
    counts = np.floor(exact).astype(np.int64)
    for source in np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]:
        counts[source] += 1
    return [int(n) for n in counts]


class _SourcePasses:
    """Passes over one source, each in an order of its own; no place needs any other."""

    def __init__(self, begin: int, length: int, *key: int) -> None:
        self._begin, self._length, self._key = begin, length, key
        self._passes: dict[int, Permutation] = {}

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the source's samples by their numbers, which count through its passes."""
        passes, places = np.divmod(numbers, self._length)
        found = np.empty(len(numbers), np.int64)
        for number in np.unique(passes).tolist():
            rows = passes == number
            if number not in self._passes:
                if len(self._passes) == _KEPT_PASSES:  # a small source may have millions of them
                    self._passes.clear()
                self._passes[number] = Permutation(self._length, *self._key, number)
            found[rows] = self._passes[number](places[rows])
        return self._begin + found


def _source_passes(lengths: Sequence[int], seed: int, epoch: int) -> list[_SourcePasses]:
    begins = np.cumsum([0, *lengths[:-1]]).tolist()
    pairs = zip(begins, lengths, strict=True)
    return [_SourcePasses(begin, length, seed, epoch, source) for source, (begin, length) in enumerate(pairs)]


class ShuffledEpoch:
    """Every source's share, all of them in one random order."""

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], total: int, seed: int, epoch: int) -> None:
        self._ends = np.cumsum(shares(lengths, weights, total))
        self._all = Permutation(total, seed, epoch)
        self._passes = _source_passes(lengths, seed, epoch)

    def __len__(self) -> int:
        return len(self._all)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions at any places of the epoch."""
        numbers = self._all(places)
        sources = np.searchsorted(self._ends, numbers, side="right")
        found = np.empty(len(numbers), np.int64)
        for source in np.unique(sources).tolist():
            rows = sources == source
            before = int(self._ends[source - 1]) if source else 0
            found[rows] = self._passes[source](numbers[rows] - before)
        return found


class PieceEpoch:
    """The pieces of one source in a random order, some at a time, whose samples come in one random order.

    Args:
        ends: The position after the last sample of each piece, ascending; the first begins at 0.
        together: Pieces at a time.
        total: Samples of an epoch; the last ones of the order may be left out.
        seed: Start of the order.
        epoch: Which pass.
    """

    def __init__(self, ends: NDArray[np.int64], together: int, total: int, seed: int, epoch: int) -> None:
        lengths = np.diff(ends, prepend=0)
        # The groups' orders have keys of their own, from (seed, epoch, 0) on.
        self._order = Permutation(len(ends), seed, epoch)(np.arange(len(ends)))
        self._ends = np.cumsum(lengths[self._order])
        self._begins = (ends - lengths)[self._order]
        self._groups = np.append(self._ends[together - 1 : -1 : together], self._ends[-1])
        self._total, self._together, self._key = total, together, (seed, epoch)

    def __len__(self) -> int:
        return self._total

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions at any places of the epoch."""
        groups = np.searchsorted(self._groups, places, side="right")
        found = np.empty(len(places), np.int64)
        for group in np.unique(groups).tolist():
            rows = groups == group
            begin = int(self._groups[group - 1]) if group else 0
            shuffled = Permutation(int(self._groups[group]) - begin, *self._key, group)
            found[rows] = begin + shuffled(places[rows] - begin)
        pieces = np.searchsorted(self._ends, found, side="right")
        return self._begins[pieces] + found - np.append(0, self._ends)[pieces]


class SpreadEpoch:
    """Every source's share, spread evenly: its sample k of n stands at moment `(k + u) / n`, with one u of `[0, 1)`."""

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> None:
        self._total = sum(lengths)
        self._counts = shares(lengths, weights, self._total)
        self._shifts = np.random.default_rng([seed, epoch]).random(len(lengths)).tolist()
        self._passes = _source_passes(lengths, seed, epoch)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions at places that follow each other."""
        first, end = int(places[0]), int(places[-1]) + 1
        # Before moment m stand between `m * total - sources` and `m * total + sources` samples.
        slack = len(self._counts) + 1
        spans = [self._between((first - slack) / self._total, (end + slack) / self._total, s) for s in self._sources]
        moments = np.concatenate([self._moments(numbers, s) for numbers, s in zip(spans, self._sources, strict=True)])
        order = np.argsort(moments, kind="stable")
        before = sum(int(numbers[0]) for numbers in spans)
        chosen = order[first - before : end - before]
        ends = np.cumsum([len(numbers) for numbers in spans])
        found = np.empty(len(chosen), np.int64)
        for number, numbers, stop in zip(self._sources, spans, ends.tolist(), strict=True):
            rows = (chosen < stop) & (chosen >= stop - len(numbers))
            found[rows] = self._passes[number](numbers[chosen[rows] - (stop - len(numbers))])
        return found

    @property
    def _sources(self) -> list[int]:
        return [source for source, count in enumerate(self._counts) if count]

    def _moments(self, numbers: NDArray[np.int64], source: int) -> NDArray[np.float64]:
        return np.asarray((numbers + self._shifts[source]) / self._counts[source])

    def _between(self, begin: float, end: float, source: int) -> NDArray[np.int64]:
        """Numbers of the samples of a source whose moments lie in `[begin, end)`, and one more at most at each end."""
        count, shift = self._counts[source], self._shifts[source]
        bounds = [min(max(math.floor(moment * count - shift), 0), count) for moment in (begin, end)]
        return np.arange(bounds[0], min(bounds[1] + 2, count))
