"""Where decoded frames go: memory or a file, with space for them, and one process at a time that writes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hlrp.errors import UserError, WorkError
from hlrp.files import fsync_folder
from hlrp.locks import file_lock


class Storage(Protocol):
    """Where decoded frames go."""

    def write(self, first: int, frames: NDArray[np.uint8]) -> None:
        """Put frames at the global index ``first``; several threads may."""

    def finish(self, episodes: list[int]) -> None:
        """Say that all frames of these episodes are there."""


class RamStorage:
    """Writes into an array."""

    def __init__(self, frames: NDArray[np.uint8], done: NDArray[np.bool_]) -> None:
        self._frames, self._done = frames, done

    def write(self, first: int, frames: NDArray[np.uint8]) -> None:
        """See `Storage`."""
        self._frames[first : first + len(frames)] = frames

    def finish(self, episodes: list[int]) -> None:
        """See `Storage`."""
        self._done[episodes] = True


class DiskStorage:
    """Writes with `pwrite`, not through the map: a full disk is then an error and no SIGBUS."""

    def __init__(self, folder: Path, episodes: int, nbytes: int, frame_bytes: int) -> None:
        self._folder, self._frame_bytes = folder, frame_bytes
        self._frames = os.open(folder / "frames.u8", os.O_RDWR | os.O_CREAT, 0o666)
        self._done = os.open(folder / "done", os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(self._frames, nbytes)
        os.ftruncate(self._done, episodes)
        fsync_folder(folder)

    def __enter__(self) -> "DiskStorage":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._frames)
        os.close(self._done)

    def write(self, first: int, frames: NDArray[np.uint8]) -> None:
        """See `Storage`."""
        write_at(self._frames, frames, first * self._frame_bytes, self._folder)

    def finish(self, episodes: list[int]) -> None:
        """See `Storage`; the frames are on the disk before their episode counts as done."""
        os.fsync(self._frames)
        for episode in episodes:
            os.pwrite(self._done, b"\1", episode)
        os.fsync(self._done)


def write_at(file: int, frames: NDArray[np.uint8], offset: int, folder: Path) -> None:
    """Write frames from byte ``offset`` of an open file on.

    Raises:
        WorkError: The disk is full; ``folder`` is named.
    """
    data = memoryview(np.ascontiguousarray(frames)).cast("B")
    try:
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written
    except OSError as error:
        raise WorkError(f"decoded frames cannot be written: {error}\n  where: {folder}") from error


@contextmanager
def locked(folder: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """The sole right to write into a store's folder, which is made; a wait for another process is announced.

    Raises:
        UserError: The folder cannot be written.
    """
    from filelock import Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(folder / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            announce(f"another process is decoding these frames; waiting for it ({folder})")
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"decoded frames cannot be kept there: {error.strerror}",
            where=str(folder),
            fix="set HLRP_CACHE to a folder that can be written, or use data.cache=ram",
        ) from error
    try:
        yield
    finally:
        lock.release()


def require_space(need: int, free: int, kind: str, key: str) -> None:
    """Check that decoded frames of ``need`` bytes fit.

    Raises:
        UserError: They do not; ``key`` is what could be changed.
    """
    if need > free:
        raise UserError(
            f"decoded frames need {need / 2**30:.1f} GiB of {kind}, {free / 2**30:.1f} GiB are free",
            where="data.cache",
            fix=f"free some, use fewer episodes or smaller frames, or change {key}",
        )
