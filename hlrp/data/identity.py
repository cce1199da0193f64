"""The fingerprint of a dataset: a short text that changes with its frames, rows and labels."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hlrp.errors import UserError
from hlrp.files import write_json

_VERSION = "2"
_META = "meta"
_WHOLE_TABLE = 8 << 20
_TABLE_BLOCKS = 65
_VIDEO_BLOCKS = 3
_BLOCK = 16 << 10
_LONG_S = 0.5
_RECENT_S = 2.0


def fingerprint(root: Path, folders: tuple[str, ...] = ("data", "videos")) -> str:
    """Identity of the content of a dataset's folder, such as `2-0f3a...`.

    - `meta/`: every byte of every file.
    - Tables (`*.parquet`): every byte up to 8 MiB, of larger ones the size and 65 blocks of 16 KiB, evenly spaced, the
      first and the last included (the last holds the table of contents with the columns' extremes).
    - All else (videos, pictures): the size and three such blocks. A video that is encoded anew changes its list of
      frame sizes, which lies at one of its ends.

    Links are followed, to folders too. Names count as seen from ``root``; where the bytes really lie, and when they
    were written, does not: a copy made with any tool is the same data. Hidden files (`.DS_Store`, `._x`, `.cache/`) do
    not count. A file that is absent counts: a part of a dataset is another dataset.

    The version in front says by which of these rules it was made; fingerprints made before there was one have none.

    Of a dataset that takes long to read it is kept in this tool's cache folder, for as long as the file system says the
    same of every file: place, size, and time of its last change.

    Args:
        root: Folder of the dataset.
        folders: What is looked at beside `meta/`.
    """
    from hlrp.catalog import cache_folder

    files = [(folder, *found) for folder in (_META, *folders) for found in visible_files(root / folder)]
    stamp, remembered = _stamp(files), cache_folder() / "fingerprints" / f"{_short(str(root.resolve()))}.json"
    if stamp is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(remembered.read_text(encoding="utf8"))
            if known["stamp"] == stamp:
                return str(known["fingerprint"])
    began = time.monotonic()
    mark = _read_fingerprint(files)
    if time.monotonic() - began > _LONG_S and stamp is not None and stamp == _stamp(files):
        with suppress(OSError):
            remembered.parent.mkdir(parents=True, exist_ok=True)
            write_json(remembered, {"root": str(root), "stamp": stamp, "fingerprint": mark})
    return mark


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _stamp(files: list[tuple[str, str, Path]]) -> str | None:
    """What the file system says of files; None if one changed so lately that it could change once more unseen."""
    digest, newest = hashlib.sha256(_VERSION.encode()), 0
    for folder, name, path in files:
        stat = path.stat()
        newest = max(newest, stat.st_ctime_ns, stat.st_mtime_ns)
        said = (folder, name, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(f"{said}\n".encode())
    return digest.hexdigest() if newest < (time.time() - _RECENT_S) * 1e9 else None


def _read_fingerprint(files: list[tuple[str, str, Path]]) -> str:
    return digest((content_of(*file) for file in files), map)


class Content(NamedTuple):
    """A file of a dataset, wherever it lies.

    Args:
        folder: `meta`, `data`, ...
        name: As seen from the folder, with slashes.
        size: In bytes.
        read: Gives the bytes from a place on, so many of them.
    """

    folder: str
    name: str
    size: int
    read: Callable[[int, int], bytes]


def digest(files: Iterable[Content], apply: Callable[..., Iterator[Iterable[bytes]]]) -> str:
    """The fingerprint of files in the order of their names; see `fingerprint`.

    Args:
        files: All that counts, folder after folder.
        apply: `map`, or one that reads several files at once.
    """
    found, listed = hashlib.sha256(f"hlrp dataset {_VERSION}\n".encode()), [*files]
    for content, blocks in zip(listed, apply(_looked_at, listed), strict=True):
        found.update(f"{content.folder}/{content.name}\0{content.size}\n".encode())
        for block in blocks:
            found.update(block)
    return f"{_VERSION}-{found.hexdigest()[:14]}"


def is_of_older_rules(mark: str) -> bool:
    """Whether a fingerprint was made by other rules than today's."""
    return not mark.startswith(f"{_VERSION}-")


def first_fingerprint(root: Path) -> str:
    """The fingerprint that hlrp 0.1 made, to recognise what was labelled or trained by it.

    It covers names and sizes of all files, and the content of `info.json` and `stats.json`: not an edit that leaves a
    file's size as it was.
    """
    digest = hashlib.sha256()
    for folder in (_META, "data", "videos"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
                if folder == _META and path.name in ("info.json", "stats.json"):
                    digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def visible_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files below a folder by name, without hidden ones; links are followed, but not back into a parent.

    Yields:
        Name as seen from ``folder``, with slashes, and path; in the order of names.
    """
    pending: list[tuple[str, Path, frozenset[tuple[int, int]]]] = [("", folder, frozenset())]
    found: list[tuple[str, Path]] = []
    while pending:
        prefix, place, above = pending.pop()
        if not place.is_dir():
            continue
        stat = place.stat()
        if (stat.st_dev, stat.st_ino) in above:
            continue
        inside = above | {(stat.st_dev, stat.st_ino)}
        for entry in os.scandir(place):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                pending.append((f"{prefix}{entry.name}/", Path(entry.path), inside))
            elif entry.is_file():
                found.append((prefix + entry.name, Path(entry.path)))
    yield from sorted(found)


def _looked_at(content: Content) -> Iterator[bytes]:
    """The bytes of a file that count."""
    table, size = content.name.endswith(".parquet"), content.size
    blocks = _TABLE_BLOCKS if table else _VIDEO_BLOCKS
    if content.folder == _META or size <= (_WHOLE_TABLE if table else blocks * _BLOCK):
        yield from (content.read(start, _WHOLE_TABLE) for start in range(0, size, _WHOLE_TABLE))
    else:
        yield from (content.read((size - _BLOCK) * i // (blocks - 1), _BLOCK) for i in range(blocks))


def content_of(folder: str, name: str, path: Path) -> Content:
    """A file on this machine."""
    return Content(folder, name, path.stat().st_size, _reader(path))


def _reader(path: Path) -> Callable[[int, int], bytes]:
    def read(start: int, length: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise UserError(
                f"a file of the dataset cannot be read: {error.strerror}", where=str(path), fix="restore the file"
            ) from error

    return read
