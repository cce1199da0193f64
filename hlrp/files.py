"""Writing files so that a kill at any moment leaves the old content or the new one, never half of it."""

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` with ``content`` in one step."""
    import tempfile

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


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
            descriptor = os.open(Path(parent) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(Path(parent))


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
