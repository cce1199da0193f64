"""The page of a diagnosis: the verdict with its evidence, pictures, recorded and predicted actions, histograms.

And what the page of a run says of the diagnoses in it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.evaluation.diagnosis.findings import SCHEMA_VERSION, Diagnosis, Finding, Histogram, Trace
from hlrp.evaluation.plan import read_json
from hlrp.files import write_text
from hlrp.pages import page_environment
from hlrp.report.curves import WIDTH, Chart, Point, Series, draw

PAGE = "diagnosis.html"
_MOST_JOINTS, _HEIGHT = 24, 110


@dataclass(frozen=True)
class Outlines:
    """A histogram as a drawing: whose actions to the corners of their outline, and the range of the values."""

    joint: str
    lines: tuple[tuple[str, str], ...]
    low: float
    high: float


@dataclass(frozen=True)
class Diagnosed:
    """A diagnosis of a run.

    Args:
        name: Of its folder.
        where: What was looked at, in one line.
        verdict: The one line.
        healthy: Whether no fault was found.
        findings: In the order of the layers.
        page: Its own page, to link to; None: it is gone.
    """

    name: str
    where: str
    verdict: str
    healthy: bool
    findings: tuple[Finding, ...]
    page: str | None

    @property
    def fix(self) -> str:
        """What to do about the first fault."""
        return next((finding.fix for finding in self.findings if finding.fault is not None), "")


def read_diagnoses(paths: Sequence[Path], folder: Path) -> tuple[list[Diagnosed], list[str]]:
    """Diagnoses, and what is wrong with those that cannot be read.

    Args:
        paths: Their `diagnosis.json`.
        folder: Where the page that shows them goes: links are relative to it.
    """
    found, problems = [], []
    for path in paths:
        try:
            found.append(_diagnosed(path, read_json(path), folder))
        except UserError as problem:
            problems.append(f"{problem.what} ({problem.where})")
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(f"this diagnosis cannot be read: {error!r} ({path})")
    return found, problems


def _diagnosed(path: Path, raw: dict[str, Any], folder: Path) -> Diagnosed:
    if raw["schema_version"] > SCHEMA_VERSION:
        raise UserError("this diagnosis was written by a newer hlrp", where=str(path))
    env, policy = raw["env"] or {}, raw["policy"]
    step = f"step {policy['step']}" if policy["step"] is not None else ""
    parts = (env.get("type", ""), step, str(raw["created"]))
    page = path.with_name(PAGE).resolve()
    return Diagnosed(
        path.parent.name,
        " · ".join(part for part in parts if part),
        str(raw["verdict"]),
        bool(raw["healthy"]),
        tuple(Finding.from_json(finding) for finding in raw["findings"]),
        os.path.relpath(page, folder.resolve()) if page.is_file() else None,
    )


def write_page(found: Diagnosis) -> Path:
    """Write `diagnosis.html` beside `diagnosis.json`."""
    text = (
        page_environment("hlrp.report")
        .get_template("diagnosis.html")
        .render(
            found=found,
            cameras=_by_camera(found),
            traces=[_trace(trace) for trace in found.traces[:_MOST_JOINTS]],
            histograms=[_outlines(histogram) for histogram in found.histograms[:_MOST_JOINTS]],
            episode=found.traces[0].episode if found.traces else None,
            width=WIDTH,
            height=_HEIGHT,
            left_out=max(0, len(found.traces) - _MOST_JOINTS),
        )
    )
    path = found.folder / PAGE
    write_text(path, text)
    return path


def _by_camera(found: Diagnosis) -> dict[str, list[tuple[str, object]]]:
    cameras: dict[str, list[tuple[str, object]]] = {}
    for picture in found.pictures:
        cameras.setdefault(picture.camera, []).append((picture.label, picture.pixels))
    return cameras


def _trace(trace: Trace) -> Chart:
    series = [
        Series(name, tuple(Point(step, float(v), float(v), float(v)) for step, v in enumerate(values)))
        for name, values in (("recorded", trace.recorded), ("policy", trace.predicted))
    ]
    return draw(trace.joint, series, linear=True)


def _outlines(histogram: Histogram) -> Outlines:
    """Steps as high as the shares, over a common range."""
    low, high = histogram.edges[0], histogram.edges[-1]
    most = max(max(shares) for shares in histogram.shares.values())

    def x(value: float) -> float:
        return (value - low) / (high - low) * WIDTH

    lines = []
    for whose, shares in histogram.shares.items():
        corners = [(x(low), float(_HEIGHT))]
        for left, right, share in zip(histogram.edges[:-1], histogram.edges[1:], shares, strict=True):
            y = _HEIGHT * (1 - share / most)
            corners += [(x(left), y), (x(right), y)]
        corners.append((x(high), _HEIGHT))
        lines.append((whose, " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)))
    return Outlines(histogram.joint, tuple(lines), low, high)
