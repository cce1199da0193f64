"""A dataset's columns of pseudo-labels: whether both are there, and hold what they say."""

from collections.abc import Iterator, Mapping

from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE, RECORDED, UNKNOWN
from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.problems import Problem
from hlrp.data.table_checks import Extremes

_FIX = "make the dataset again with hlrp pseudo-label"


def pseudo_label_problems(info: DatasetInfo, extremes: Mapping[str, Extremes]) -> Iterator[Problem]:
    """Check the columns that say where actions are from and how much they count; a dataset without them has no problem.

    Args:
        info: The dataset.
        extremes: What its columns really hold.
    """
    absent = [name for name in (ACTION_SOURCE, ACTION_CONFIDENCE) if name not in info.features]
    if len(absent) == 2:
        return
    where = str(info.root / INFO)
    if absent:
        there = ACTION_SOURCE if absent == [ACTION_CONFIDENCE] else ACTION_CONFIDENCE
        yield Problem(
            f"the dataset has {there!r}, but no {absent[0]!r}: one says nothing without the other", where, _FIX
        )
        return
    action = info.features.get("action", {}).get("shape")
    for name, shape in ((ACTION_SOURCE, [1]), (ACTION_CONFIDENCE, action)):
        if list(info.features[name]["shape"]) != shape:
            yield Problem(f"{name!r} has shape {info.features[name]['shape']}, it needs {shape}", where, _FIX)
    for name, low, high in ((ACTION_SOURCE, RECORDED, UNKNOWN), (ACTION_CONFIDENCE, 0, 1)):
        real = extremes.get(name)
        if real is not None and (real.low.min() < low or real.high.max() > high):
            found = f"numbers from {real.low.min():g} to {real.high.max():g}, they lie from {low} to {high}"
            yield Problem(f"{name!r} holds {found}", f"{info.root / 'data'}, column {name}", _FIX)
