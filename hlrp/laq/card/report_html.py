"""The quality card as one HTML page, from `templates/`: no script, nothing from outside, light and dark."""

import math
from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from hlrp.laq.card.pictures import data_uri
from hlrp.runs.directory import package_versions

if TYPE_CHECKING:
    from hlrp.laq.card.report import Report, SourceReport


def render(report: "Report") -> str:
    """The whole page; whatever the report holds is escaped."""
    pages = Environment(
        loader=PackageLoader("hlrp.laq.card"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"number": _number, "mean": _mean, "data_uri": data_uri}
    return pages.get_template("card.html").render(
        report=report,
        name=(report.run or report.model).name,
        versions=package_versions(),
        action_names=_action_names,
    )


def _number(value: float | None, form: str) -> str:
    """``value`` for people, in the format ``form``; a dash for None and nan."""
    if value is None or math.isnan(value):
        return "–"
    text = format(value, form)
    # What rounds to nothing has no sign.
    return text.replace("-", "−") if text.strip("+-0.%") else format(abs(value), form)


def _mean(values: Iterable[float]) -> float:
    """The mean; nan without any value."""
    listed = list(values)
    return fmean(listed) if listed else math.nan


def _action_names(source: "SourceReport") -> list[str]:
    """A name for each action dimension that was probed: the dataset's own where it has one for each."""
    assert source.laq.probes is not None
    names = source.held_out.source.info.features["action"].get("names")
    width = len(source.laq.probes["codes"].r2_per_dim)
    return names if isinstance(names, list) and len(names) == width else [f"action {i}" for i in range(width)]
