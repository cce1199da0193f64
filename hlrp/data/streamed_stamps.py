"""Times of the frames of a streamed dataset, from the tables of the episodes that are read, and of no others."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hlrp.data.episodes import Episodes
from hlrp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TABLES = 32
"""Tables of which the times are kept: 4 bytes a frame."""


class _Stamps(NamedTuple):
    """The times in a file whose rows are consecutive frames."""

    first: int
    seconds: "NDArray[np.float32]"


class StreamedStamps:
    """Times of frames inside their episodes; safe to ask from several threads, and to hand to other processes.

    Args:
        table: Episode table of the dataset.

    Raises:
        UserError: The dataset does not say in which file an episode's rows lie.
    """

    def __init__(self, table: Episodes) -> None:
        if not table.tables:
            raise UserError(
                "the dataset does not say in which table an episode lies, so all would have to be fetched",
                where=f"data.streaming, {table.info.root}",
                fix="fetch it whole, and leave streaming out",
            )
        self._table = table
        self._kept: OrderedDict[Path, _Stamps] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, episode: int) -> "NDArray[np.float32]":
        """Times of the frames of an episode, in seconds from its beginning, float32 `[n]`.

        Raises:
            UserError: Its table cannot be fetched or read, or lacks rows.
        """
        path = self._table.tables[episode]
        with self._lock:
            if path not in self._kept:
                if len(self._kept) >= _TABLES:
                    self._kept.popitem(last=False)
                self._kept[path] = self._read(path)
            self._kept.move_to_end(path)
            found = self._kept[path]
        first, end = int(self._table.start[episode]) - found.first, int(self._table.end[episode]) - found.first
        if first < 0 or end > len(found.seconds):
            raise _damaged(path, f"it lacks rows of episode {episode}")
        return found.seconds[first:end]

    def _read(self, path: Path) -> _Stamps:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        from hlrp.data.columns import flat_values
        from hlrp.data.compact import release_memory

        try:
            with pq.ParquetFile(self._table.info.here(path)) as file:
                rows = file.read(columns=["index", "timestamp"])
            index, stamps = (flat_values(rows.column(n).combine_chunks(), n) for n in ("index", "timestamp"))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from error
        if not len(index) or (np.diff(index) != 1).any():
            raise _damaged(path, "its rows are not consecutive frames")
        result = _Stamps(int(index[0]), stamps.astype(np.float32))
        del rows, index, stamps
        release_memory()
        return result

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_lock": None, "_kept": OrderedDict()}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"a table cannot be read: {what}", where=str(path), fix="restore the dataset")
