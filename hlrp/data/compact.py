"""What a dataset says of every episode or frame, kept as arrays: a million cost megabytes, and no Python objects."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from hlrp.catalog import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_IN_MEMORY = 32 << 20


def zeros(shape: tuple[int, ...], dtype: Any) -> "NDArray[Any]":
    """Zeros; many of them in a file without a name, which the system keeps in memory as far as there is room.

    Processes that are forked share it, and it is gone with the last of them. Where no such file can be made, memory
    holds them.
    """
    import math
    import os
    import tempfile

    import numpy as np

    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes <= _IN_MEMORY:
        return np.zeros(shape, dtype)
    folder = cache_folder() / "rows"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # All of it now: a disk that is full later on would kill the process that writes to the map.
            os.posix_fallocate(file.fileno(), 0, nbytes)
            # As an array like any other; the map lives as long as it does.
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except (OSError, AttributeError):  # macOS cannot reserve
        return np.zeros(shape, dtype)


def release_memory() -> None:
    """Give freed memory back to the system, which the allocators would keep for this process.

    A file of ten thousand row groups takes 100 to 300 MiB while it is read, a simulator more.
    """
    import ctypes
    from contextlib import suppress

    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


class FewValues[Value](Sequence[Value]):
    """A sequence in which few values come again and again, such as the file of each episode.

    Args:
        values: The distinct ones.
        numbers: Which of them stands at each place, `[n]`.
    """

    def __init__(self, values: Sequence[Value], numbers: "NDArray[Any]") -> None:
        self.values, self.numbers = values, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Value: ...
    @overload
    def __getitem__(self, place: slice) -> "FewValues[Value]": ...

    def __getitem__(self, place: int | slice) -> "Value | FewValues[Value]":
        if isinstance(place, slice):
            return FewValues(self.values, self.numbers[place])
        return self.values[self.numbers[place]]

    def __iter__(self) -> Iterator[Value]:
        return (self.values[number] for number in self.numbers.tolist())


class FrameRanges:
    """Ascending global frame indices, kept as ranges of consecutive ones.

    Indexing by an array of places gives the frames that stand there; `numpy.asarray` gives all of them.

    Args:
        begins: First frame of each range, ascending; empty ranges are left out.
        ends: The frame after its last one.
    """

    def __init__(self, begins: "Sequence[int] | NDArray[np.int64]", ends: "Sequence[int] | NDArray[np.int64]") -> None:
        import numpy as np

        pairs = np.stack([np.asarray(begins, np.int64), np.asarray(ends, np.int64)])
        first, after = pairs[:, pairs[0] < pairs[1]]
        new = np.ones(len(first), bool)
        new[1:] = first[1:] != after[:-1]
        self.begins: NDArray[np.int64] = first[new]
        self.ends: NDArray[np.int64] = after[np.roll(new, -1)] if len(new) else after
        self._after = np.cumsum(self.ends - self.begins)

    def __len__(self) -> int:
        return int(self._after[-1]) if len(self._after) else 0

    def __getitem__(self, places: Any) -> Any:
        import numpy as np

        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        # The last frame of a range lies `ends - after` behind its place, as all of its frames do.
        ranges = np.searchsorted(self._after, places, side="right")
        return places + (self.ends - self._after)[ranges]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "NDArray[Any]":
        import numpy as np

        return np.asarray(self[np.arange(len(self))], dtype)

    def before(self, frames: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """How many of them come before each of ``frames``, `[n]`."""
        import numpy as np

        ranges = np.searchsorted(self.begins, frames, side="right")
        beyond = np.maximum(np.append(0, self.ends)[ranges] - frames, 0)
        return (np.append(0, self._after)[ranges] - beyond).astype(np.int64)

    def within(self, first: int, end: int) -> "FrameRanges":
        """Those from ``first`` up to ``end``."""
        import numpy as np

        some = slice(np.searchsorted(self.ends, first, side="right"), np.searchsorted(self.begins, end))
        return FrameRanges(self.begins[some].clip(min=first), self.ends[some].clip(max=end))

    def missing(self, first: int, end: int) -> "FrameRanges":
        """The frames from ``first`` up to ``end`` that are not among them."""
        import numpy as np

        inside = self.within(first, end)
        return FrameRanges(np.append(first, inside.ends), np.append(inside.begins, end))

    def mark(self, mask: "NDArray[np.bool_]") -> "NDArray[np.bool_]":
        """Set ``mask``, bool `[frames]` by global index, where they are."""
        for begin, end in zip(self.begins.tolist(), self.ends.tolist(), strict=True):
            mask[begin:end] = True
        return mask

    def blocks(self, frames: int) -> "Iterator[NDArray[np.int64]]":
        """All of them in order, at most ``frames`` at a time."""
        for first in range(0, len(self), frames):
            yield self[first : first + frames]
