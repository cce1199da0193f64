"""The quality card as one HTML page, from `templates/`: no script, nothing from outside, light and dark."""

import math
from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING

from torch import Tensor

from hlrp.pages import data_uri, page_environment
from hlrp.runs.directory import package_versions

if TYPE_CHECKING:
    from hlrp.laq.card.report import Report, SourceReport


def render(report: "Report") -> str:
    """The whole page; whatever the report holds is escaped."""
    pages = page_environment("hlrp.laq.card")
    pages.filters |= {"mean": _mean, "picture_uri": _picture_uri}
    return pages.get_template("card.html").render(
        report=report,
        name=(report.run or report.model).name,
        versions=package_versions(),
        action_names=_action_names,
    )


def _picture_uri(picture: Tensor) -> str:
    """A picture uint8 ``[3, H, W]`` as a PNG that stands in the page itself."""
    return data_uri(picture.permute(1, 2, 0).contiguous().numpy())


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
