"""A dataset's columns of pseudo-labels: are they there, do they hold what they say, what do policies make of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE, PREDICTED, RECORDED, UNKNOWN, read_columns
from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.episodes import read_episodes
from hlrp.data.problems import Problem
from hlrp.data.table_checks import Extremes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


def unweighted_problems(
    info: DatasetInfo, policy: str, episodes: Sequence[int] | None = None, *, leave_out: str = "with --episodes"
) -> Iterator[Problem]:
    """What a policy that counts all actions alike would learn wrongly of a dataset with pseudo-labels.

    Args:
        info: The dataset; one without the columns has no problem.
        policy: Name of the policy.
        episodes: Those that it is trained on; none: all.
        leave_out: How one leaves episodes out, for messages.
    """
    if not {ACTION_SOURCE, ACTION_CONFIDENCE} <= info.features.keys():
        return
    chosen = list(read_episodes(info).present if episodes is None else episodes)
    rows = read_episodes(info).frame_indices(chosen)
    found = read_columns(info, [ACTION_SOURCE, ACTION_CONFIDENCE], chosen)
    if zeros := episodes_without_actions(info, found[ACTION_SOURCE], chosen):
        yield Problem(
            f"no action is known of episodes {first_few(zeros)}: zeros stand there, which policy {policy!r} would "
            "learn like recorded actions",
            f"{info.root / 'data'}, column {ACTION_SOURCE}",
            f"leave these episodes out {leave_out}, or train a policy that counts actions by their confidence, such "
            "as hlrp_action_expert_direct",
        )
    predicted = rows[found[ACTION_SOURCE][rows] == PREDICTED]
    trusted = (found[ACTION_CONFIDENCE].reshape(info.frames, -1)[predicted] > 0).any(0)
    if len(predicted) and not trusted.all():
        yield Problem(
            f"policy {policy!r} learns all actions alike: {len(predicted)} of {len(rows)} frames have predicted ones, "
            f"whose map is not to be trusted in {(~trusted).sum()} of {len(trusted)} dimensions (confidence 0)",
            f"{info.root / 'data'}, column {ACTION_CONFIDENCE}",
            f"leave the predicted episodes out {leave_out}, or train a policy that counts actions by their confidence",
            fatal=False,
        )


def episodes_without_actions(info: DatasetInfo, source: "NDArray[np.int64]", episodes: Sequence[int]) -> list[int]:
    """The episodes of which no frame has a recorded or predicted action: zeros stand there.

    Args:
        info: The dataset.
        source: `ACTION_SOURCE` of all frames.
        episodes: Episodes to look at.
    """
    table = read_episodes(info)
    return [e for e in episodes if (source[table.start[e] : table.end[e]] == UNKNOWN).all()]


def first_few(numbers: Sequence[int]) -> str:
    """Numbers for a message: the first eight."""
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
