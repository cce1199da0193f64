"""A new dataset folder whose videos are links to those of another one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Only these are linked. LeRobot rewrites tables and metadata in place, which would reach the source through a link.
LINKED = ("videos", "images")


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep other processes from making the same dataset at once; they wait, and find it made."""
    from filelock import FileLock

    output.parent.mkdir(parents=True, exist_ok=True)
    # Left in place: unlinked, it would be another file for who comes next than for who waits already.
    with FileLock(output.with_name(f".{output.name}.lock")):
        yield


def place(source: Path, target: Path, *, link: bool) -> str:
    """Link or copy one file.

    Returns:
        linked, symlinked (where no hard link is possible) or copied.
    """
    real = source.resolve()  # a Hub snapshot consists of links
    if not link:
        shutil.copy2(real, target)
        return "copied"
    try:
        target.hardlink_to(real)
    except OSError:
        target.symlink_to(real)
        return "symlinked"
    return "linked"
