"""Datasets that are not here whole: `meta/` lies in a folder, other files come when they are read, and old ones go."""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrp.data.identity import Content, content_of, digest, visible_files
from hlrp.errors import UserError
from hlrp.files import write_json

_MARK = ".hlrp-stream.json"
PART_MARK = ".hlrp-part.json"
"""Name of the file by which a folder says what it holds a part of."""
_FOLDERS = ("data", "videos", "images")
_CALLS = 16
_JUST_USED_S = 60.0
"""So long a file stays, whatever the limit: another process may be about to open it."""


@dataclass(frozen=True)
class Stream:
    """A dataset whose files come as they are read.

    Args:
        root: Its folder, which holds `meta/` and what has come of the rest.
        url: Where all of it lies, as fsspec names places (`hf://datasets/lerobot/pusht@COMMIT`); None: in `root`.
        limit_gb: How much of `url` may stay in `root`, in GB; what was used last stays.
        mark: The file in `root` that says so.
    """

    root: Path
    url: str | None = None
    limit_gb: float = 50.0
    mark: str = _MARK

    @classmethod
    def whole_of(cls, part: Path) -> "Stream | None":
        """The dataset that a folder says to hold a part of, for its fingerprint alone; None: it says nothing."""
        try:
            url = str(json.loads((part / PART_MARK).read_text(encoding="utf8"))["url"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(part, url, mark=PART_MARK)

    @classmethod
    def of(cls, root: Path, limit_gb: float) -> "Stream":
        """The stream into a folder that `write_mark` was called for, or one that reads a whole dataset in place.

        Raises:
            UserError: What the folder says of itself cannot be read.
        """
        mark = root / _MARK
        if not mark.is_file():
            return cls(root, None, limit_gb)
        try:
            return cls(root, str(json.loads(mark.read_text(encoding="utf8"))["url"]), limit_gb)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{mark} cannot be read: {error!r}", where=str(root), fix="delete the folder") from error

    def write_mark(self, fingerprint: str | None = None) -> None:
        """Have the folder say where its files come from, and the fingerprint of all of them where it is known."""
        known = {} if fingerprint is None else {"fingerprint": fingerprint}
        write_json(self.root / self.mark, {"url": self.url} | known)

    def fetch(self, path: Path) -> Path:
        """Have a file of the dataset here, if it exists; several processes and threads may ask at once.

        Args:
            path: Its place below `root`.

        Returns:
            ``path``.

        Raises:
            UserError: It cannot be fetched.
        """
        if self.url is None:
            return path
        with suppress(OSError):
            os.utime(path)
            return path
        from hlrp.data.linked_copy import alone

        with alone(path):
            if not path.is_file():
                self._download(path)
        self._make_room()
        return path

    def _download(self, path: Path) -> None:
        # Always the same one, since no other process or thread is at it: what a kill has left is written over.
        temporary = path.with_name(f".{path.name}.part")
        place, name = self._place(), path.relative_to(self.root).as_posix()
        try:
            place.system.get_file(f"{place.base}/{name}", str(temporary))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except Exception as error:  # every file system has its own
            raise UserError(
                f"{name} of the dataset cannot be fetched: {type(error).__name__}: {' '.join(str(error).split())}",
                where=str(self.url),
                fix="check the network; the same command goes on from here",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self) -> None:
        """Delete what was not used for longest, until the rest is within the limit."""
        found = []
        for folder in _FOLDERS:
            for path in (self.root / folder).rglob("*"):
                with suppress(OSError):  # another process was faster
                    if path.is_file() and not path.name.startswith("."):
                        stat = path.stat()
                        found.append((stat.st_mtime, stat.st_size, path))
        total, recent = sum(size for _, size, _ in found), time.time() - _JUST_USED_S
        for used, size, path in sorted(found):
            if total <= self.limit_gb * 1e9 or used > recent:
                return
            path.unlink(missing_ok=True)
            total -= size

    def fingerprint(self, folders: Sequence[str]) -> str:
        """What `hlrp.data.identity.fingerprint` says of the whole dataset; of each file some blocks are fetched.

        Args:
            folders: What is looked at beside `meta/`.

        Raises:
            UserError: The place cannot be read.
        """
        mark = self.root / self.mark
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads(mark.read_text(encoding="utf8"))["fingerprint"])
        try:
            place = self._place()
            files = [content_of("meta", *file) for file in visible_files(self.root / "meta")]
            files += [content for folder in folders for content in place.files(folder)]
            with ThreadPoolExecutor(_CALLS) as pool:
                found = digest(files, lambda look, all_of: pool.map(lambda content: [*look(content)], all_of))
        except Exception as error:  # every file system has its own
            raise UserError(
                f"the dataset cannot be read: {type(error).__name__}: {' '.join(str(error).split())}",
                where=str(self.url),
                fix="check the network",
            ) from error
        # The place is of one commit: what was read once is so for good.
        self.write_mark(found)
        return found

    def _place(self) -> "_Place":
        from fsspec.core import url_to_fs

        return _Place(*url_to_fs(self.url))


@dataclass(frozen=True)
class _Place:
    """Where a whole dataset lies, on whatever file system."""

    system: Any
    base: str

    def files(self, folder: str) -> list[Content]:
        """The files below a folder in the order of names, without hidden ones."""
        top = f"{self.base}/{folder}"
        try:
            entries = self.system.find(top, detail=True)
        except FileNotFoundError:
            return []
        found = {name.split(f"{top}/", 1)[1]: entry for name, entry in entries.items()}
        seen = sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))
        return [Content(folder, name, int(found[name]["size"]), self._reader(f"{top}/{name}")) for name in seen]

    def _reader(self, path: str) -> Callable[[int, int], bytes]:
        def read(start: int, length: int) -> bytes:
            # What is asked for and no more: fsspec would read megabytes ahead.
            return bytes(self.system.cat_file(path, start=start, end=start + length, cache_type="none"))

        return read
