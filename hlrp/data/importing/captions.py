"""Tables of captions: which sentence belongs to which part of which file."""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hlrp.data.importing.request import is_text
from hlrp.data.importing.sources import Source
from hlrp.errors import UserError, suggest, suggest_beside

_COLUMNS = ("file", "caption", "start", "end")


class Caption(NamedTuple):
    """A sentence about a part of a file.

    Args:
        text: The sentence.
        start: Second at which the part begins, from the first frame on.
        end: Second at which it ends; none: with the file.
        where: Its place in the table, for errors.
    """

    text: str
    start: float
    end: float | None
    where: str


def read_captions(path: Path, sources: Sequence[Source]) -> dict[str, list[Caption]]:
    """Captions of each source by its name, in the order of their begin; parts may overlap.

    Args:
        path: Table `.csv` with a first line of names, `.jsonl`, or `.json` with a list: `file`, `caption`, and where
            a caption is about a part of the file, its `start` and `end` in seconds.
        sources: Whom a `file` may name: by name, with its ending or without, or by the last part of it where no other
            has the same.

    Raises:
        UserError: The table cannot be read, or a row is wrong.
    """
    rows = [*_rows(path)]
    if not rows:
        raise UserError("the table of captions has no rows", where=f"--captions {path}", fix="write a row a file")
    known = _names(sources)
    found: dict[str, list[Caption]] = {}
    for number, row in rows:
        where = f"--captions {path}, {number}"
        name, caption = _caption(row, known, where)
        found.setdefault(name, []).append(caption)
    for captions in found.values():
        captions.sort(key=lambda c: (c.start, math.inf if c.end is None else c.end))
    return found


def _names(sources: Sequence[Source]) -> dict[str, str]:
    """What may stand in `file`, and the source it means; empty: several."""
    known: dict[str, str] = {}
    for short in (True, False):
        here: dict[str, str] = {}
        for source in sources:
            last = source.path.name
            ending = "" if source.is_pictures else source.path.suffix
            names = {last, source.name.rpartition("/")[2]} if short else {source.name, source.name + ending}
            for name in names:
                here[name] = "" if here.get(name, source.name) != source.name else source.name
        known |= here
    return known


def _rows(path: Path) -> Iterable[tuple[str, Any]]:
    where = f"--captions {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            reader = csv.DictReader(text.splitlines(), strict=True)
            return [(f"line {reader.line_num}", row) for row in reader]
        if path.suffix == ".jsonl":
            lines = enumerate(text.splitlines(), 1)
            return [(f"line {number}", json.loads(line)) for number, line in lines if line.strip()]
        if path.suffix == ".json":
            said = json.loads(text)
            if not isinstance(said, list):
                raise ValueError("it holds no list")
            return [(f"entry {number}", row) for number, row in enumerate(said, 1)]
    except FileNotFoundError as error:
        fix = suggest_beside(path, "give the path of the table")
        raise UserError("there is no such file", where=where, fix=fix) from error
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        fix = "give a file that can be read" if isinstance(error, OSError) else "correct the file"
        if isinstance(error, UnicodeDecodeError):
            fix = "write them as UTF-8"
        raise UserError(f"the captions cannot be read: {reason}", where=where, fix=fix) from error
    raise UserError(f"captions of the kind {path.suffix!r} are unknown", where=where, fix="give .csv, .jsonl or .json")


def _caption(row: Any, known: dict[str, str], where: str) -> tuple[str, Caption]:
    if not isinstance(row, dict):
        raise UserError("a row is no object", where=where, fix='write {"file": ..., "caption": ...}')
    strange = [str(key) for key in row if key not in _COLUMNS]
    if strange:
        raise UserError(f"column {strange[0]!r} is unknown", where=where, fix=f"use {', '.join(_COLUMNS)}")
    file, text = row.get("file"), row.get("caption")
    for name, value in (("file", file), ("caption", text)):
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{name!r} is missing or empty", where=where, fix=f"write the {name} of every row")
    assert isinstance(file, str) and isinstance(text, str)
    if not is_text(text):
        raise UserError("'caption' holds half a character", where=where, fix="correct its escapes: \\ud800 to \\udfff")
    name = known.get(file.strip(), "/")
    if name == "/":
        raise UserError(
            f"there is no video {file!r}", where=where, fix=suggest(file, [k for k, v in known.items() if v])
        )
    if not name:
        raise UserError(f"several videos are called {file!r}", where=where, fix="write it with its folder")
    start, end = _second(row.get("start"), "start", where), _second(row.get("end"), "end", where)
    if end is not None and end <= (start or 0.0):
        raise UserError(
            f"the end, {end:g} s, is not after the start, {start or 0:g} s", where=where, fix="correct them"
        )
    return name, Caption(text.strip(), start or 0.0, end, where)


def _second(value: Any, name: str, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        second = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        second = math.nan
    if not math.isfinite(second) or second < 0:
        raise UserError(f"{name!r} is {value!r}, no second from 0 on", where=where, fix="write seconds: 12.5")
    return second
