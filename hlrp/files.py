"""Writing files so that a kill at any moment leaves the old content or the new one, never half of it."""

import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    _fsync(folder)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a file that appears as ``path``, in place of one that is there, when it is complete and on disk.

    Gives the path to write, of an empty file beside it, hidden and ending in `.tmp`: a kill may leave that.
    """
    import tempfile

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _fsync(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` with ``content`` in one step."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` (UTF-8) in one step."""
    write_bytes(path, text.encode())


def json_text(value: Any, *, indent: int | None = None) -> str:
    """``value`` as JSON that every reader takes: numbers that JSON cannot say (NaN, infinities) become null."""
    return json.dumps(_sayable(value), indent=indent, allow_nan=False)


def _sayable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _sayable(item) for key, item in value.items()}
    return [_sayable(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with ``value`` as indented JSON in one step."""
    write_text(path, json_text(value, indent=2) + "\n")


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to disk, before a rename makes them visible."""
    for parent, _, files in os.walk(folder):
        for name in files:
            _fsync(Path(parent) / name)
        fsync_folder(Path(parent))


_UNFINISHED, _DISCARDED = ".partial", ".discarded-"


def unfinished_path(final: Path, maker: str = "") -> Path:
    """Where `new_folder` builds ``final``: beside it and hidden, the same name in every process."""
    return final.with_name(f".{final.name}{maker and '.' + maker}{_UNFINISHED}")


@contextmanager
def new_folder(final: Path, *, temporary: Path | None = None, replace: bool = False) -> Iterator[Path]:
    """Fill a folder that appears as ``final`` when it is complete and on disk; a kill or an error leaves none.

    Gives the path to fill, where nothing is yet: what a kill has left there is removed first.

    Args:
        final: The folder; its parents are made.
        temporary: Where it is filled, on the same file system; None: `unfinished_path`, for one process at a time.
        replace: A ``final`` that is there already gives way; otherwise only an empty one does.

    Raises:
        OSError: It cannot be written, or ``final`` is in the way.
    """
    temporary = temporary or unfinished_path(final)
    shutil.rmtree(temporary, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    old = final.with_name(f"{_DISCARDED}{final.name}")
    try:
        yield temporary
        fsync_tree(temporary)
        if replace and final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_folder(final.parent)
    if replace:
        shutil.rmtree(old, ignore_errors=True)


def discard_folder(folder: Path) -> None:
    """Remove ``folder``, renamed first: a folder that is half deleted must not look like one."""
    doomed = folder.with_name(f"{_DISCARDED}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def clear_leftovers(parent: Path) -> None:
    """Remove what kills in the middle of `new_folder` and `discard_folder` have left below ``parent``."""
    # The last name is that of an earlier version.
    for pattern in (f".*{_UNFINISHED}", f"{_DISCARDED}*", ".unfinished-*"):
        for leftover in parent.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def replace_link(link: Path, target: str) -> None:
    """Point the symbolic link ``link`` at ``target``, beside it, in one step: a kill leaves the old link or the new.

    A folder of that name, as copying a run with its links followed leaves, is kept as `<name>.copied`.
    """
    if link.is_dir() and not link.is_symlink():
        names = (link.with_name(f"{link.name}.copied{number or ''}") for number in itertools.count())
        link.rename(next(name for name in names if not os.path.lexists(name)))
    fresh = link.with_name(f".{link.name}.partial")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
    fsync_folder(link.parent)
