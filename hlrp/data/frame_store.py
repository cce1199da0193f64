"""Frames decoded once, then read from memory or from a memory-mapped file.

On disk a store is a folder `<cache>/frames/<key>`, shared by all runs and processes of the machine:

- `frames.u8`: uint8 `[frames, C, H, W]` by global frame index, without a header; sparse where nothing is stored yet;
- `done`: one byte per episode, 1 when all its frames are on the disk;
- `manifest.json`: what the frames are; `lock`: held by the process that is decoding.

In memory it is the same content, frames and then a byte per episode, once for all processes of the machine that ask for
it; `ram-<host>.json` in that folder says which processes have it.

Bytes of `done` follow the flushed frames they speak of, so a store that was killed goes on where it stopped and ends
with the same bytes.
"""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hlrp.catalog import cache_folder
from hlrp.data.decode import FrameChunk, SequentialDecoder
from hlrp.data.episodes import Episodes
from hlrp.data.frame_storage import DiskStorage, RamStorage, Storage, locked, require_space
from hlrp.data.open_video import pixel_source
from hlrp.data.shared_memory import SharedBytes
from hlrp.errors import UserError
from hlrp.files import write_json
from hlrp.ranks import cores

_log = logging.getLogger("hlrp.data")
_VERSION = 2
_CHANNELS = 3
_JOB_FRAMES = 512
_WAITING_JOBS = 64
_FLUSH_BYTES = 128 << 20
_PLACES = "HLRP_CACHE, or lower data.cache_limit_gb, so that no more is kept"


class FrameStore:
    """The frames of one camera of one dataset at one size; nothing is decoded before `prepare`.

    Args:
        table: Episode table of the dataset.
        camera: Feature to read.
        size: Height and width, or one number for a square; none: as recorded.
        where: ram: in memory, for as long as a process of this machine has it; disk: in a memory-mapped file.
        root: Folder of the stores; none: `frames` in this tool's cache folder.
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
        self._meeting = (root or cache_folder() / "frames") / self.key
        self.folder = self._meeting if where == "disk" else None
        self._frames: NDArray[np.uint8] | None = None
        self._in_ram: NDArray[np.bool_] = np.zeros(len(table), bool)
        self._shared: SharedBytes | None = None

    @cached_property
    def key(self) -> str:
        """Name of the store: a hash of all that decides its frames."""
        text = json.dumps(self.identity(), sort_keys=True)
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
                self._make_ram(episodes, announce, progress)
            else:
                with locked(self.folder, announce):
                    self._make_disk(self.folder, episodes, announce, progress)
        self._map()

    def _sentence(self, episodes: Sequence[int] | None, place: object) -> str:
        frames, (height, width) = self._count(self.missing(episodes)), self.size
        what = f"{frames:,} frames of {self.table.info.repo_id} {self.camera} at {height}x{width}"
        return f"decoding {what}: {frames * self.frame_bytes / 2**20:,.0f} MiB in {place}"

    def _make_ram(
        self,
        episodes: Sequence[int] | None,
        announce: Callable[[str], None],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        import psutil

        with ExitStack() as alone:
            if self._frames is None or self._shared is not None:
                try:
                    alone.enter_context(locked(self._meeting, announce))
                except UserError as error:
                    announce(f"frames in memory are this process's own: {error.what} ({self._meeting})")
                else:
                    self._shared = self._shared or SharedBytes.find_or_make(*self._memory)
            self._map()
            if not self.missing(episodes):
                return  # another process has made them
            free = psutil.virtual_memory().available
            require_space(self.bytes_to_make(episodes), free, "memory", "data.cache to disk")
            announce(self._sentence(episodes, "memory"))
            if self._frames is None:
                # Pages that are never written take no memory.
                self._frames = np.zeros(self._shape, np.uint8)
            self._decode(self.missing(episodes), RamStorage(self._frames, self._in_ram), progress)

    @property
    def _memory(self) -> tuple[Path, str, int]:
        """Who has it, its name, and its bytes: frames, and one for each episode."""
        record = self._meeting / f"ram-{os.uname().nodename}.json"
        return record, f"hlrp-{self.key}", math.prod(self._shape) + len(self.table)

    def _make_disk(
        self,
        folder: Path,
        episodes: Sequence[int] | None,
        announce: Callable[[str], None],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        if not self.missing(episodes):
            return  # another process made it while this one waited for the lock
        require_space(self.bytes_to_make(episodes), shutil.disk_usage(folder).free, "disk space", _PLACES)
        announce(self._sentence(episodes, folder))
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink()  # of a manifest whose writing was killed; the lock says that nobody writes one now
        write_json(folder / "manifest.json", self.identity())
        with DiskStorage(folder, len(self.table), self.table.info.frames * self.frame_bytes, self.frame_bytes) as disk:
            self._decode(self.missing(episodes), disk, progress)

    def identity(self) -> dict[str, Any]:
        """All that decides its frames, as JSON."""
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

    def _decode(self, episodes: list[int], storage: Storage, progress: Callable[[int, int], None] | None) -> None:
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

    def decode(self, episode: int) -> Iterator[FrameChunk]:
        """Frames of an episode in order; nothing is kept. Safe in several threads.

        Raises:
            BadVideoError: Naming file and episode.
        """
        return self._decoder.frames([episode], threads=1)

    def _map(self) -> None:
        if self._frames is not None:
            return
        if self.folder is not None:
            path = self.folder / "frames.u8"
            self._frames = np.asarray(np.memmap(path, np.uint8, mode="r", shape=self._shape))
            return
        self._shared = self._shared or SharedBytes.find(*self._memory)
        if self._shared is not None:
            frames, done = np.split(self._shared.content, [math.prod(self._shape)])
            self._frames, self._in_ram = frames.reshape(self._shape), done.view(bool)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames by global index `[n]`, any order: uint8 `[n, C, H, W]`. Only prepared episodes hold pictures."""
        if self._frames is None:
            self._map()
        assert self._frames is not None, "prepare() comes before read()"
        return self._frames[indices]

    def __getstate__(self) -> dict[str, Any]:
        # A map would travel to another process as a copy of all frames; there it is found again.
        if self.where == "ram" and self._shared is None:
            return self.__dict__
        return self.__dict__ | {"_frames": None, "_shared": None, "_in_ram": np.zeros_like(self._in_ram)}


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
