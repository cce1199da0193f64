"""The page of a diagnosis: the verdict with its evidence, pictures, recorded and predicted actions, histograms."""

from dataclasses import dataclass
from pathlib import Path

from hlrp.evaluation.diagnosis.findings import Diagnosis, Histogram, Trace
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
