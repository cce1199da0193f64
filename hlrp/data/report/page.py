"""The report as tables for a terminal and as one HTML page, from `templates/`: no script, nothing from outside."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hlrp.data.report.measure import Dimension, SourceReport
from hlrp.errors import UserError
from hlrp.files import write_text
from hlrp.pages import number, page_environment
from hlrp.runs.directory import check_writable, package_versions


class Table(NamedTuple):
    """Rows under a head, all of them text."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def check_page(path: Path) -> None:
    """Refuse a place for the page before any work is done.

    Raises:
        UserError: It is a folder, or cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder", where="--output", fix=f"name a file in it: {path / 'report.html'}")
    check_writable(path.parent)


def write_page(reports: Sequence[SourceReport], path: Path, created: str) -> None:
    """Write the page, whatever the reports hold is escaped; the folder is made if need be."""
    pages = page_environment("hlrp.data.report")
    pages.filters["note"] = note_of
    text = pages.get_template("report.html").render(reports=reports, created=created, versions=package_versions())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def tables(report: SourceReport) -> Iterator[Table]:
    """What the page shows without its pictures."""
    yield Table("dataset", ("what", "value"), list(_summary(report)))
    cameras = [
        (
            c.name,
            f"{c.height}x{c.width}",
            c.codec,
            number(c.fps, "g"),
            f"{c.files} file{'' if c.files == 1 else 's'}, {c.megabytes:.1f} MB",
            " ".join(number(c.motion.get(p), ".1f") for p in ("p5", "p50", "p95")),
        )
        for c in report.cameras
    ]
    if cameras:
        yield Table("cameras", ("camera", "size", "codec", "fps", "on disk", "motion p5 p50 p95"), cameras)
    yield Table(
        "tasks",
        ("episodes", "frames", "instruction"),
        [(str(t.episodes), f"{t.frames:,}", t.text) for t in report.tasks],
    )
    dimensions = [
        (f"{d.column}.{d.name}", *(number(v, ".4g") for v in (d.min, d.max, d.mean, d.std)), note_of(d))
        for d in report.dimensions
    ]
    if dimensions:
        yield Table("numbers", ("dimension", "min", "max", "mean", "std", "note"), dimensions)
    doubts = [(str(d.episode), "–" if d.frame is None else str(d.frame), d.message) for d in report.doubts]
    if doubts:
        yield Table("doubtful episodes", ("episode", "frame", "why"), doubts)
    problems = [("wrong" if p.fatal else "warning", p.message, p.where) for p in report.problems]
    if problems:
        yield Table("faults (hlrp data check)", ("kind", "what", "where"), problems)


def note_of(dimension: Dimension) -> str:
    """What is odd about a dimension, in a few words."""
    notes = [
        "never changes" if dimension.constant else "",
        "a speed" if dimension.kind == "speed" else "",
        f"{dimension.outliers} outliers" if dimension.outliers else "",
        f"{dimension.not_finite} not finite" if dimension.not_finite else "",
    ]
    return ", ".join(note for note in notes if note)


def _summary(report: SourceReport) -> Iterator[tuple[str, str]]:
    yield "folder", report.root
    yield "fingerprint", report.fingerprint
    yield "size", f"{report.episodes} episodes, {report.frames:,} frames, {report.fps:g} fps"
    seconds = report.lengths
    yield (
        "lengths",
        f"{seconds['min']:.2f} s to {seconds['max']:.2f} s, median {seconds['median']:.2f} s, "
        f"mean {seconds['mean']:.2f} s",
    )
    if report.idle is None:
        yield "idle", "nothing says: there is neither a camera nor an action or observation.state"
    else:
        idle = report.idle
        yield (
            "idle",
            f"{idle.share:.1%} of the frames (at the begin of episodes {idle.at_begin:.1%}, at the end "
            f"{idle.at_end:.1%}); data.filter.idle=true leaves them out",
        )
    doubtful = len({d.episode for d in report.doubts})
    yield "doubtful", f"{doubtful} of {report.episodes} episodes"
