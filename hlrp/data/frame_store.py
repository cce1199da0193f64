"""Frames decoded once, then read from memory or from a memory-mapped file.

On disk a store is a folder `<cache>/frames/<key>`, shared by all runs and processes of the machine:

- `frames.u8`: uint8 `[frames, C, H, W]` by global frame index, without a header; sparse where nothing is stored yet;
- `done`: one byte per episode, 1 when all its frames are on the disk;
- `manifest.json`: what the frames are; `lock`: held by the process that is decoding.

Bytes of `done` follow the flushed frames they speak of, so a store that was killed goes on where it stopped and ends
with the same bytes.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hlrp.catalog import cache_folder
from hlrp.data.decode import SequentialDecoder
from hlrp.data.episodes import Episodes
from hlrp.data.open_video import pixel_source
from hlrp.errors import UserError, WorkError
from hlrp.files import fsync_folder, write_json
from hlrp.ranks import cores

_log = logging.getLogger("hlrp.data")
_VERSION = 2
_CHANNELS = 3
_JOB_FRAMES = 512
_WAITING_JOBS = 64
_FLUSH_BYTES = 128 << 20


class _Storage(Protocol):
    """Where decoded frames go."""

    def write(self, first: int, frames: NDArray[np.uint8]) -> None: ...

    def finish(self, episodes: list[int]) -> None: ...


class FrameStore:
    """The frames of one camera of one dataset at one size; nothing is decoded before `prepare`.

    Args:
        table: Episode table of the dataset.
        camera: Feature to read.
        size: Height and width, or one number for a square; none: as recorded.
        where: ram: in this process (and those forked from it); disk: in a memory-mapped file shared by all.
        root: Folder of the stores on disk; none: `frames` in this tool's cache folder.
    """

    def __init__(
        self,
        table: Episodes,
        camera: str,
        size: int | tuple[int, int] | None = None,
        *,
        where: Literal["ram", "disk"] = "disk",
        root: Path | None = None,
    ) -> None:
        self.table = table
        self.camera = camera
        self.where = where
        self._decoder = SequentialDecoder(table, camera, size)
        self.size = self._decoder.size
        self._shape = (table.info.frames, _CHANNELS, *self.size)
        self.folder = (root or cache_folder() / "frames") / self.key if where == "disk" else None
        self._frames: NDArray[np.uint8] | None = None
        self._in_ram = np.zeros(len(table), bool)

    @cached_property
    def key(self) -> str:
        """Name of the store: a hash of all that decides its frames."""
        text = json.dumps(self._identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return _CHANNELS * self.size[0] * self.size[1]

    def done(self) -> NDArray[np.bool_]:
        """Which episodes are complete, bool `[episodes]`."""
        if self.folder is None:
            return self._in_ram.copy()
        path = self.folder / "done"
        if not path.is_file():
            return np.zeros(len(self.table), bool)
        flags = np.fromfile(path, np.uint8)
        # A kill right after the file was made leaves it short; episodes without a byte are not done.
        return np.pad(flags, (0, max(0, len(self.table) - len(flags))))[: len(self.table)] == 1

    def missing(self, episodes: Sequence[int] | None = None) -> list[int]:
        """Episodes among ``episodes`` (all by default) that are not complete, ascending."""
        done = self.done()
        return [e for e in (sorted(set(episodes)) if episodes is not None else range(len(done))) if not done[e]]

    def bytes_to_make(self, episodes: Sequence[int] | None = None) -> int:
        """Bytes that `prepare` would add."""
        return self._count(self.missing(episodes)) * self.frame_bytes

    def _count(self, episodes: list[int]) -> int:
        return int(self.table.lengths[np.asarray(episodes, np.int64)].sum())

    def prepare(
        self,
        episodes: Sequence[int] | None = None,
        *,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Decode what is missing, on all cores, and say beforehand how much it is.

        Args:
            episodes: Episodes whose frames will be read; none: all.
            announce: Given a sentence before the work begins, if there is any.
            progress: Called as (frames done, frames to do).

        Raises:
            UserError: Not enough memory or disk space.
            BadVideoError: An episode cannot be decoded; those before it are kept.
        """
        if self.missing(episodes):
            if self.folder is None:
                announce(self._sentence(episodes, "memory"))
                self._make_ram(episodes, progress)
            else:
                with locked(self.folder, announce):
                    self._make_disk(self.folder, episodes, announce, progress)
        if self.folder is not None:
            self._map()

    def _sentence(self, episodes: Sequence[int] | None, place: object) -> str:
        frames, (height, width) = self._count(self.missing(episodes)), self.size
        what = f"{frames:,} frames of {self.table.info.repo_id} {self.camera} at {height}x{width}"
        return f"decoding {what}: {frames * self.frame_bytes / 2**20:,.0f} MiB in {place}"

    def _make_ram(self, episodes: Sequence[int] | None, progress: Callable[[int, int], None] | None) -> None:
        import psutil

        _require_space(self.bytes_to_make(episodes), psutil.virtual_memory().available, "memory", "data.cache=disk")
        if self._frames is None:
            # Pages that are never written take no memory.
            self._frames = np.zeros(self._shape, np.uint8)
        self._decode(self.missing(episodes), _RamStorage(self._frames, self._in_ram), progress)

    def _make_disk(
        self,
        folder: Path,
        episodes: Sequence[int] | None,
        announce: Callable[[str], None],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        if not self.missing(episodes):
            return  # another process made it while this one waited for the lock
        _require_space(self.bytes_to_make(episodes), shutil.disk_usage(folder).free, "disk space", "HLRP_CACHE")
        announce(self._sentence(episodes, folder))
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink()  # of a manifest whose writing was killed; the lock says that nobody writes one now
        write_json(folder / "manifest.json", self._identity())
        with _DiskStorage(folder, len(self.table), self.table.info.frames * self.frame_bytes, self.frame_bytes) as disk:
            self._decode(self.missing(episodes), disk, progress)

    def _identity(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "dataset_fingerprint": self.table.info.fingerprint(),
            "camera": self.camera,
            "shape": list(self._shape),
            "episodes": len(self.table),
            "pixels": pixel_source(self.table.info.video_backend),
            "tolerance_s": self.table.info.tolerance_s,
        }

    def _jobs(self, episodes: list[int]) -> Iterator[list[int]]:
        """Neighbouring episodes of one video, enough of them that opening it costs nothing."""
        paths = self.table.video[self.camera][0] if self.camera in self.table.video else None
        job: list[int] = []
        frames = 0
        for episode in episodes:
            apart = job and (episode != job[-1] + 1 or (paths is not None and paths[episode] != paths[job[-1]]))
            if job and (apart or frames >= _JOB_FRAMES):
                yield job
                job, frames = [], 0
            job.append(episode)
            frames += int(self.table.lengths[episode])
        if job:
            yield job

    def _decode(self, episodes: list[int], storage: _Storage, progress: Callable[[int, int], None] | None) -> None:
        total, made, unflushed = self._count(episodes), 0, list[int]()

        def decode(job: list[int]) -> list[int]:
            for chunk in self._decoder.frames(job, threads=1):
                storage.write(int(self.table.start[chunk.episode]) + chunk.start, chunk.frames)
            return job

        try:
            with ThreadPoolExecutor(cores()) as pool:
                for job in _as_they_end(pool, decode, self._jobs(episodes)):
                    unflushed += job
                    made += self._count(job)
                    if self._count(unflushed) * self.frame_bytes >= _FLUSH_BYTES:
                        storage.finish(unflushed)
                        unflushed = []
                    if progress:
                        progress(made, total)
        finally:
            storage.finish(unflushed)

    def _map(self) -> None:
        if self._frames is None and self.folder is not None:
            path = self.folder / "frames.u8"
            self._frames = np.asarray(np.memmap(path, np.uint8, mode="r", shape=self._shape))

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames by global index `[n]`, any order: uint8 `[n, C, H, W]`. Only prepared episodes hold pictures."""
        if self._frames is None:
            self._map()
        assert self._frames is not None, "prepare() comes before read()"
        return self._frames[indices]

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would travel to another process as a copy of the whole file.
        return self.__dict__ | ({"_frames": None} if self.where == "disk" else {})


class _RamStorage:
    def __init__(self, frames: NDArray[np.uint8], done: NDArray[np.bool_]) -> None:
        self._frames, self._done = frames, done

    def write(self, first: int, frames: NDArray[np.uint8]) -> None:
        self._frames[first : first + len(frames)] = frames

    def finish(self, episodes: list[int]) -> None:
        self._done[episodes] = True


class _DiskStorage:
    """Writes with `pwrite`, not through the map: a full disk is then an error and no SIGBUS."""

    def __init__(self, folder: Path, episodes: int, nbytes: int, frame_bytes: int) -> None:
        self._folder, self._frame_bytes = folder, frame_bytes
        self._frames = os.open(folder / "frames.u8", os.O_RDWR | os.O_CREAT, 0o666)
        self._done = os.open(folder / "done", os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(self._frames, nbytes)
        os.ftruncate(self._done, episodes)
        fsync_folder(folder)

    def __enter__(self) -> "_DiskStorage":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._frames)
        os.close(self._done)

    def write(self, first: int, frames: NDArray[np.uint8]) -> None:
        data = memoryview(np.ascontiguousarray(frames)).cast("B")
        offset = first * self._frame_bytes
        try:
            while data:
                written = os.pwrite(self._frames, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise WorkError(f"decoded frames cannot be written: {error}\n  where: {self._folder}") from error

    def finish(self, episodes: list[int]) -> None:
        os.fsync(self._frames)
        for episode in episodes:
            os.pwrite(self._done, b"\1", episode)
        os.fsync(self._done)


@contextmanager
def locked(folder: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """The sole right to write into a store's folder, which is made; a wait for another process is announced.

    Raises:
        UserError: The folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")  # the system drops it with the process, whatever way that ends
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


def _require_space(need: int, free: int, kind: str, key: str) -> None:
    if need > free:
        raise UserError(
            f"decoded frames need {need / 2**30:.1f} GiB of {kind}, {free / 2**30:.1f} GiB are free",
            where="data.cache",
            fix=f"free some, use fewer episodes or smaller frames, or change {key}",
        )


def _as_they_end(
    pool: ThreadPoolExecutor, work: Callable[[list[int]], list[int]], jobs: Iterable[list[int]]
) -> Iterator[list[int]]:
    """Results as they come; after an error no new job starts, and those that are done are still given."""
    # Few wait in the pool at a time: to wait for the first of all costs time for each of them.
    coming, pending = iter(jobs), set[Future[list[int]]]()
    failure: BaseException | None = None
    try:
        while True:
            if failure is None:
                pending |= {pool.submit(work, job) for job in islice(coming, _WAITING_JOBS - len(pending))}
            if not pending:
                break
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                error = future.exception()
                if error is None:
                    yield future.result()
                elif failure is None:
                    failure = error
                    pending = {f for f in pending if not f.cancel()}
    finally:
        for future in pending:
            future.cancel()
    if failure is not None:
        raise failure
