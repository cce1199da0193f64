"""Decoded frames of a dataset that is larger than the disk: kept by episode, and what was not used for longest goes.

In the folder of a `FrameStore`, below `episodes/`, shared by all runs and processes of the machine:

- `<episode>.u8`: uint8 `[frames, C, H, W]`; it has this name once it is whole, and its time is that of its last use;
- `<episode>.part`: one that is being decoded, from the beginning of the size that it will have;
- `lock`: held while room is made; `lock-NN`: held by the process that decodes an episode whose number leaves NN.

Who has opened an episode reads it to its end, though it is deleted meanwhile; who does not find it decodes it.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlrp.data.frame_storage import locked, require_space, write_at
from hlrp.data.frame_store import FrameStore
from hlrp.errors import UserError, WorkError
from hlrp.files import write_json
from hlrp.locks import file_lock
from hlrp.ranks import is_first_process, own_cores

_log = logging.getLogger("hlrp.data")
_WHOLE, _PART = ".u8", ".part"
_LOCKS = 64
_WASTE = 4
_SURE = 32


class EpisodeShards:
    """Frames of a `FrameStore` that are decoded when they are first needed, as many as a limit allows.

    What the store holds whole is read from there, and does not count.

    Args:
        store: A store on disk; its frames are the same, to the bit.
        limit: Bytes that may be kept. Where several processes have different ones, the least of them holds.
    """

    def __init__(self, store: FrameStore, limit: int) -> None:
        assert store.folder is not None, "only a store on disk has room to make"
        self._store, self._limit, self.folder = store, limit, store.folder / "episodes"
        self.size = store.size
        self._in_store = store.done()
        self._seen = np.zeros(len(store.table), bool)
        self._given, self._decoded, self._again, self._seconds = 0, 0, 0, 0.0
        self._said = False

    def prepare(self, episodes: list[int] | None, *, announce: Callable[[str], None] = _log.warning) -> None:
        """Make the folder, check that there is room, and say how much of all frames it is.

        Args:
            episodes: Episodes whose frames will be read; none: all.
            announce: Given the sentence.

        Raises:
            UserError: The limit is too small for one episode, or larger than what is free; the folder cannot be
                written.
        """
        store, info = self._store, self._store.table.info
        missing = np.asarray(store.missing(episodes), np.int64)
        if not len(missing):
            return  # all of them are in the store
        longest = int(store.table.lengths[missing].max()) * store.frame_bytes
        if longest > self._limit:
            raise UserError(
                f"the longest episode of {info.repo_id} takes {_gb(longest)} GB as decoded frames of "
                f"{store.camera}, of the limit {_gb(self._limit)} GB are for them",
                where="data.cache_limit_gb",
                fix="raise it, use smaller frames, or data.cache=off",
            )
        with locked(self.folder, lambda _: None):
            used = self._make_room()
            most = min(self._limit, store.bytes_to_make(episodes))
            free = shutil.disk_usage(self.folder).free
            require_space(most - used, free, "disk space", "data.cache_limit_gb")
            if not (self.folder.parent / "manifest.json").is_file():
                write_json(self.folder.parent / "manifest.json", store.identity())
        announce(
            f"decoded frames of {info.repo_id} {store.camera}: {_gb(most)} of "
            f"{_gb(store.bytes_to_make(episodes))} GB are kept in {self.folder}; episodes are decoded when they "
            "are needed, and those that were not used for longest go"
        )

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames by global index `[n]`, any order: uint8 `[n, C, H, W]`; absent episodes are decoded, on all cores.

        Raises:
            BadVideoError: Naming file and episode.
            WorkError: The disk is full.
        """
        began, table = time.monotonic(), self._store.table
        result = np.empty((len(indices), 3, *self.size), np.uint8)
        episode_of = table.episode_of(indices)
        in_store = self._in_store[episode_of]
        if in_store.any():
            result[in_store] = self._store.read(indices[in_store])
        rows = {int(e): np.flatnonzero(episode_of == e) for e in np.unique(episode_of[~in_store])}

        def take(episode: int, file: int) -> None:
            try:
                for row in rows[episode].tolist():
                    place = int(indices[row] - table.start[episode]) * self._store.frame_bytes
                    if os.preadv(file, [result[row]], place) != self._store.frame_bytes:
                        raise WorkError(f"decoded frames are cut short\n  where: {self.folder}\n  fix: delete it")
            finally:
                os.close(file)

        absent = []
        for episode in rows:
            if (file := self._open(episode)) is None:
                absent.append(episode)
            else:
                take(episode, file)
        decoded: list[bool] = []
        if absent:
            with ThreadPoolExecutor(_threads()) as pool:
                # Each is opened in its turn: of a large batch not all are open at once.
                decoded += pool.map(lambda episode: self._take_absent(episode, take), absent)
        self._count(len(indices), [e for e, is_new in zip(absent, decoded, strict=True) if is_new], began)
        return result

    def _take_absent(self, episode: int, take: Callable[[int, int], None]) -> bool:
        with file_lock(self._lock_of(episode)):
            file = self._open(episode)
            is_new = file is None  # else another process decoded it while this one waited
            if file is None:
                file = self._decode(episode)
        take(episode, file)
        return is_new

    def _open(self, episode: int) -> int | None:
        try:
            file = os.open(self.folder / f"{episode}{_WHOLE}", os.O_RDONLY)
        except FileNotFoundError:
            return None
        os.utime(file)
        return file

    def _decode(self, episode: int) -> int:
        """Decode an episode whose lock is held; its file stays open, whatever becomes of its name."""
        part, store = self.folder / f"{episode}{_PART}", self._store
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            with locked(self.folder, lambda _: None):
                os.ftruncate(file, int(store.table.lengths[episode]) * store.frame_bytes)
                self._make_room()
            for chunk in store.decode(episode):
                write_at(file, chunk.frames, chunk.start * store.frame_bytes, self.folder)
            os.fsync(file)
            with locked(self.folder, lambda _: None):
                part.rename(part.with_suffix(_WHOLE))
                self._make_room()  # others that were decoded meanwhile found no room either
        except BaseException:
            os.close(file)
            part.unlink(missing_ok=True)
            raise
        return file

    def _make_room(self) -> int:
        """Delete until no more than the limit is left, parts that a killed process has left first; the lock is held.

        Returns:
            Bytes that are left.
        """
        whole, total = [], 0
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):  # a part that has just become whole
                stat, path = entry.stat(), Path(entry.path)
                if path.suffix == _PART and self._drop_left_over(path):
                    continue
                if path.suffix in (_WHOLE, _PART):
                    total += stat.st_size
                    whole += [(stat.st_mtime_ns, stat.st_size, path)] * (path.suffix == _WHOLE)
        for _, size, path in sorted(whole):
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    def _drop_left_over(self, part: Path) -> bool:
        """Delete a part that nobody decodes any more, and say whether it was one."""
        from filelock import Timeout

        lock = file_lock(self._lock_of(int(part.stem)))
        try:
            with lock.acquire(blocking=False):
                part.unlink(missing_ok=True)
                return True
        except Timeout:
            return False

    def _lock_of(self, episode: int) -> Path:
        return self.folder / f"lock-{episode % _LOCKS:02d}"

    def _count(self, given: int, decoded: list[int], began: float) -> None:
        """Say once that most of the work is to decode what was decoded before, if it is."""
        lengths = self._store.table.lengths
        self._given += given
        for episode in decoded:
            self._decoded += int(lengths[episode])
            self._again += int(lengths[episode]) * bool(self._seen[episode])
            self._seen[episode] = True
        self._seconds += time.monotonic() - began
        sure = self._again > max(_WASTE * self._given, _SURE * float(lengths.mean()))
        if self._said or not sure:
            return
        self._said = True
        if _speaks():
            _log.warning(
                "decoded frames of %s %s go before they are used: for %s frames that samples asked for, %s were "
                "decoded, which gives %.0f frames a second (raise data.cache_limit_gb; or, for a quantizer, draw from "
                "few files at a time with data.streaming=true; or use data.cache=off, which decodes what is asked for)",
                self._store.table.info.repo_id,
                self._store.camera,
                f"{self._given:,}",
                f"{self._decoded:,}",
                self._given / self._seconds,
            )


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g}" if nbytes < 1e12 else f"{nbytes / 1e9:,.0f}"


def _worker() -> int | None:
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    return None if info is None else int(info.id)


def _threads() -> int:
    """Threads that decode: workers of a loader are several already."""
    return own_cores() if _worker() is None else 1


def _speaks() -> bool:
    return is_first_process() and _worker() in (None, 0)
