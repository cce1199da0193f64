"""Curves of a run's metrics as drawings: thinned to what a screen shows, with ticks, linear or logarithmic."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

WIDTH, HEIGHT = 340, 170
"""Of a drawing, in its own units."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 20
_MOST_POINTS = 200
_LOG_FROM = 30  # a loss that falls by more than this is a line along the floor on a linear axis


class Point(NamedTuple):
    """A value at a step; where several rows share a point, their mean and range."""

    step: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """One metric of one run, by step.

    Args:
        name: In the legend.
        points: Finite values, ascending by step.
        lost: Values that were not finite.
    """

    name: str
    points: tuple[Point, ...]
    lost: int = 0

    @property
    def last(self) -> Point:
        """The last value."""
        return self.points[-1]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A drawn series: corners of its line and of the band between lowest and highest value, and its points."""

    name: str
    corners: str
    band: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Chart:
    """A drawing of one or several series over the steps."""

    title: str
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    log: bool
    lost: int
    latest: tuple[tuple[str, float], ...]


def series_of(rows: Iterable[Mapping[str, Any]], key: str, name: str | None = None) -> Series | None:
    """The values of one metric.

    Args:
        rows: Of `metrics.jsonl`; of two rows of one step the later counts.
        key: The metric.
        name: In the legend; None: the metric's.

    Returns:
        None if no row has a finite value.
    """
    found = {int(row.get("step", 0)): row[key] for row in rows if key in row}
    finite = {s: float(v) for s, v in found.items() if _is_number(v) and math.isfinite(v)}
    if not finite:
        return None
    return Series(name or key, _thinned(sorted(finite.items())), len(found) - len(finite))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def numeric_keys(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that rows have numbers of, in the order in which they first occur; `step` and `time` are none."""
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if _is_number(value))
    return [key for key in keys if key not in ("step", "time")]


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[Point, ...]:
    count = -(-len(points) // _MOST_POINTS)
    groups = [points[i : i + count] for i in range(0, len(points), count)]
    thinned = []
    for group in groups:
        values = [value for _, value in group]
        # The last of all is the value that a reader looks up: not blurred with those before it.
        mean = values[-1] if group is groups[-1] else math.fsum(values) / len(values)
        thinned.append(Point(group[-1][0], mean, min(values), max(values)))
    return tuple(thinned)


def draw(title: str, series: Sequence[Series], *, linear: bool = False) -> Chart:
    """Draw series, one or more, over common axes; values over several magnitudes logarithmic, unless ``linear``."""
    points = [p for s in series for p in s.points]
    low, high = min(p.low for p in points), max(p.high for p in points)
    log = not linear and low > 0 and high / low > _LOG_FROM
    scale = math.log10 if log else float
    bottom, top = scale(low), scale(high)
    if top - bottom <= abs(top) * 1e-9:
        pad = abs(top) * 0.5 or 1.0
        bottom, top = bottom - pad, top + pad
    first, last = min(p.step for p in points), max(p.step for p in points)
    first = min(first, 0 if last > 0 else last - 1)

    def x(step: float) -> float:
        return _LEFT + (step - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (scale(value) - bottom) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)

    lines = []
    for one in series:
        band = [(x(p.step), y(p.high)) for p in one.points] + [(x(p.step), y(p.low)) for p in reversed(one.points)]
        spread = any(p.low < p.high for p in one.points)
        dots = tuple((x(p.step), y(p.value), f"{one.name}, step {p.step:,g}: {p.value:.4g}") for p in one.points)
        lines.append(Line(one.name, _corners((a, b) for a, b, _ in dots), _corners(band) if spread else "", dots))
    return Chart(
        title=title,
        lines=tuple(lines),
        across=tuple(Tick(x(step), _short(step)) for step in _nice(first, last, 4, least=1.0)),
        up=tuple(Tick(y(value), _short(value)) for value in (_decades(low, high) if log else _nice(bottom, top, 4))),
        log=log,
        lost=sum(s.lost for s in series),
        latest=tuple((s.name, s.last.value) for s in series),
    )


def _corners(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _nice(low: float, high: float, wanted: int, least: float = 0.0) -> list[float]:
    """Round numbers in a range, about as many as wanted and at ``least`` so far apart."""
    rough = max((high - low) / wanted, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten in a range, at most five; both ends of a range that holds fewer than two."""
    powers = list(range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1))
    return [10.0**k for k in powers[:: -(-len(powers) // 5)]] if len(powers) > 1 else [low, high]


def _short(value: float) -> str:
    """A tick's number in few letters."""
    size = abs(value)
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= 10 * power or (size >= power > 1e3):
            return f"{value / power:.3g}{letter}"
    return (f"{value:.0e}" if 0 < size < 1e-3 else f"{value:.4g}").replace("-", "−")
