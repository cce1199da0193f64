"""Which files and folders of numbered pictures a source names, and how each is called."""

import glob
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hlrp.data.dataset_info import SUPPORTED_FORMAT, conversion
from hlrp.errors import UserError, suggest_beside

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_LISTS = (".txt", ".lst")
_NUMBER = re.compile(r"(\d+)\D*$")


class Source(NamedTuple):
    """A video file, or a folder of numbered pictures.

    Args:
        path: Where it lies.
        name: What it is called: its path as seen from the source, without the ending, with slashes.
    """

    path: Path
    name: str

    @property
    def is_pictures(self) -> bool:
        """Whether it is a folder of pictures."""
        return self.path.is_dir()

    @property
    def table(self) -> Path | None:
        """The table of states beside it, `NAME.csv` or `NAME.parquet`."""
        stem = self.path.name if self.is_pictures else self.path.stem
        return next(
            (p for p in (self.path.with_name(f"{stem}{end}") for end in (".csv", ".parquet")) if p.is_file()), None
        )


class Found(NamedTuple):
    """What a source names.

    Args:
        sources: In the order of their names.
        left_out: Name and reason of what is none.
    """

    sources: list[Source]
    left_out: list[tuple[str, str]]


def find_sources(source: str) -> Found:
    """The videos that ``source`` names.

    Args:
        source: A folder, looked through with all below it; a video file; a pattern such as `videos/*.mp4`; or a list,
            `files.txt`, with a path on each line, as seen from the list. Hidden files and folders are left out, and
            pictures that are called as a video beside them: they show what is in it.

    Raises:
        UserError: There is nothing of that kind; a LeRobotDataset; two of the same name.
    """
    path = Path(source)
    left_out: list[tuple[str, str]] = []
    if path.is_dir():
        _refuse_dataset(path)
        found = [*_below(path, left_out)]
        kinds = ", ".join(VIDEOS)
        nothing, fix = "no video and no folder of numbered pictures lies there", f"give a folder that holds {kinds}"
    elif path.is_file():
        found = [*_listed(path)] if path.suffix.lower() in _LISTS else [_one(path, path.parent)]
        nothing, fix = "the list names no file", "write one path on each line"
    elif glob.has_magic(source):
        root = _fixed_part(path)
        paths = [p for p in root.glob(path.relative_to(root).as_posix()) if not p.name.startswith(".")]
        found = [_one(p, root) for p in paths if p.suffix.lower() in VIDEOS or (p.is_dir() and _pictures(p))]
        nothing, fix = "no video fits the pattern", "put the pattern in quotes, and look at what it should match"
    else:
        fix = suggest_beside(path, f"look below {path.parent}")
        raise UserError("there is no such file or folder", where=f"SOURCE {source}", fix=fix)
    if not found:
        raise UserError(nothing, where=f"SOURCE {source}", fix=fix)
    found.sort(key=lambda s: s.name)
    for before, after in itertools.pairwise(found):
        if before.name == after.name:
            raise UserError(
                f"two videos are called {before.name!r}: {before.path} and {after.path}",
                where=f"SOURCE {source}",
                fix="rename one of them, or give a list of the files to take",
            )
    return Found(found, left_out)


def _refuse_dataset(folder: Path) -> None:
    info = folder / "meta" / "info.json"
    if not info.is_file():
        return
    try:
        version = json.loads(info.read_text(encoding="utf8"))["codebase_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    fix = "it needs no import: give it as --dataset-root"
    if version != SUPPORTED_FORMAT:
        fix = conversion(version, folder.name, folder)
    raise UserError(f"this is a LeRobotDataset already, of format {version}", where=f"SOURCE {folder}", fix=fix)


def _below(root: Path, left_out: list[tuple[str, str]]) -> Iterator[Source]:
    """Sources in a folder and all below it; links are followed, but not back into a folder that they lie in."""
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while pending:
        folder, above = pending.pop()
        stat = folder.stat()
        if (stat.st_dev, stat.st_ino) in above:
            continue
        name = folder.relative_to(root).as_posix() if folder != root else folder.resolve().name
        if _pictures(folder):
            yield Source(folder, name)
        if shown := len(_split_pictures(folder)[1]):
            left_out.append((name, f"{shown} picture{'s' * (shown != 1)}, called as the videos beside them"))
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                pending.append((path, above | {(stat.st_dev, stat.st_ino)}))
            elif path.suffix.lower() in VIDEOS:
                yield _one(path, root)


def _one(path: Path, root: Path) -> Source:
    if not path.is_dir() and path.suffix.lower() not in VIDEOS:
        raise UserError(
            f"{path.name} has no ending of a video", where=f"SOURCE {path}", fix=f"give {', '.join(VIDEOS)}"
        )
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    return Source(path, (relative if path.is_dir() else relative.with_suffix("")).as_posix())


def _fixed_part(pattern: Path) -> Path:
    """The folders of a pattern before the first with a wildcard."""
    fixed = list(pattern.parts[:-1])
    for place, part in enumerate(fixed):
        if glob.has_magic(part):
            fixed = fixed[:place]
            break
    return Path(*fixed)


def _listed(path: Path) -> Iterator[Source]:
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list cannot be read: {error}", where=f"SOURCE {path}", fix="write it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        named = path.parent / line.strip()
        if not line.strip() or line.startswith("#"):
            continue
        if not named.exists():
            raise UserError(
                f"line {number} names {line.strip()}, which is not there",
                where=f"SOURCE {path}",
                fix="correct the line: paths are seen from the list's folder",
            )
        if named.is_dir() and not _pictures(named):
            raise UserError(
                f"line {number} names {line.strip()}, a folder without numbered pictures",
                where=f"SOURCE {path}",
                fix="name videos, or folders of pictures",
            )
        yield _one(named, path.parent)


def _pictures(folder: Path) -> bool:
    return any(_NUMBER.search(p.stem) for p in picture_files(folder))


def picture_files(folder: Path) -> list[Path]:
    """Pictures that lie in ``folder`` itself, in no order, without those that are called as a video there."""
    return _split_pictures(folder)[0]


def _split_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures of a folder: those that stand for themselves, and those that are called as a video there."""
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    videos = {path.stem for path in visible if path.suffix.lower() in VIDEOS}
    pictures = [path for path in visible if path.suffix.lower() in PICTURES]
    return [p for p in pictures if p.stem not in videos], [p for p in pictures if p.stem in videos]


def numbered(paths: Iterable[Path]) -> list[tuple[int, Path]]:
    """Pictures by the last number in their names, ascending.

    Raises:
        ValueError: One without a number, two with the same, or one that is missing between the others.
    """
    found: dict[int, Path] = {}
    for path in sorted(paths):
        match = _NUMBER.search(path.stem)
        if match is None:
            raise ValueError(f"the picture {path.name} has no number")
        number = int(match[1])
        if number in found:
            raise ValueError(f"the pictures {found[number].name} and {path.name} have the same number")
        found[number] = path
    ordered = sorted(found.items())
    for (before, _), (after, path) in itertools.pairwise(ordered):
        if after != before + 1:
            raise ValueError(f"picture {before + 1} is missing, before {path.name}")
    return ordered
