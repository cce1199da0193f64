"""A dataset's `meta/stats.json`: whether it can be read, is finite, and belongs to the numbers in the tables."""

import json
import math
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.problems import Problem
from hlrp.data.table_checks import Extremes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATS = Path("meta/stats.json")
_NEAR_ZERO = 1e-6
_EPSILON = 1e-8  # LeRobot's, added to a spread before it divides
_QUANTILES = (("q01", "q99"), ("q10", "q90"))


def recompute(info: DatasetInfo) -> str:
    """How to make the statistics anew, as a command to type."""
    name, root = shlex.quote(info.repo_id), shlex.quote(str(info.root.absolute()))
    place = f"--repo_id {name} --root {root} --new_repo_id {name} --new_root {root}"
    return f"lerobot-edit-dataset {place} --operation.type recompute_stats --operation.overwrite true"


def statistics_problems(
    info: DatasetInfo, used: Collection[str], extremes: Mapping[str, Extremes], *, needed: bool
) -> Iterator[Problem]:
    """Check the statistics.

    A column that never changes is common (a gripper that is not used) and is normalised to a constant: a warning. Fatal
    is what makes numbers that are not finite, or absurdly large, of the data that are here.

    Args:
        info: The dataset.
        used: Columns that are normalised with them.
        extremes: What the columns really hold.
        needed: Whether training needs statistics at all; without, all that is wrong is a warning.
    """
    where, fix = info.root / STATS, f"compute them again: {recompute(info)}"
    try:
        stats = json.loads(where.read_text(encoding="utf8"))
        if not isinstance(stats, dict):
            raise TypeError("it is no JSON object")
    except FileNotFoundError:
        yield Problem(f"the dataset has no {STATS}: raw numbers would be trained on", str(where), fix, needed)
        stats = {}
    except (OSError, ValueError, TypeError) as error:
        yield Problem(f"{STATS} cannot be read: {error}", str(where), fix, needed)
        stats = {}
    for name in sorted(extremes):
        place, fatal = f"{where}, feature {name}", needed and name in used
        yield from _constant(name, extremes[name], info)
        if stats and name in used and not stats.get(name):
            yield Problem(f"{STATS} has no statistics of {name!r}: raw numbers would be used", place, fix, fatal)
        elif stats.get(name):
            for message, always in _of_feature(name, info, stats[name], extremes[name]):
                yield Problem(message, place, fix, fatal and always)
    for camera in info.cameras if stats else ():
        bad = [key for key, value in (stats.get(camera) or {}).items() if not _finite(value)]
        if bad:
            message = f"statistics of {camera!r} are not finite ({', '.join(bad)})"
            yield Problem(message, f"{where}, feature {camera}", fix, fatal=False)


def _constant(name: str, real: Extremes, info: DatasetInfo) -> Iterator[Problem]:
    import numpy as np

    if name not in ("action", "observation.state"):
        return
    same = np.flatnonzero(real.high == real.low).tolist()
    if same:
        shown = ", ".join(map(str, same[:8])) + (", ..." if len(same) > 8 else "")
        yield Problem(
            f"{name!r} never changes in {len(same)} of its {len(real.low)} dimensions ({shown})",
            f"{info.root / 'data'}, column {name}",
            "check that the sensor was connected; nothing can be learned of it",
            fatal=False,
        )


def _of_feature(name: str, info: DatasetInfo, stats: Any, real: Extremes) -> Iterator[tuple[str, bool]]:
    """What is wrong with the statistics of one feature, and whether any training with them is wrong."""
    import numpy as np

    if not isinstance(stats, dict):
        yield f"statistics of {name!r} are {stats!r}, no object", True
        return
    bad = [key for key, value in stats.items() if not _finite(value)]
    if bad:
        yield f"statistics of {name!r} are not finite numbers: {', '.join(sorted(bad))}", True
    found: dict[str, NDArray[np.float64]] = {}
    for key, value in stats.items():
        if key not in bad and key != "count":
            found[key] = np.asarray(value, np.float64).reshape(-1)
            if found[key].size not in (1, real.low.size):
                shape = info.features[name]["shape"]
                yield f"{key!r} of {name!r} has {found[key].size} numbers, {INFO} says {shape}", True
                return
    if "std" in found and "mean" in found:
        yield from _spread(name, info, found["mean"], found["std"], real)
    if "min" in found and "max" in found:
        yield from _range(name, ("min", "max"), found["min"], found["max"], real, always=True)
    for low, high in _QUANTILES:
        if low in found and high in found:
            yield from _range(name, (low, high), found[low], found[high], real, always=False)


def _spread(
    name: str, info: DatasetInfo, mean: "NDArray[np.float64]", std: "NDArray[np.float64]", real: Extremes
) -> Iterator[tuple[str, bool]]:
    import numpy as np

    if (std < 0).any():
        yield f"the spread of {name!r} is negative in dimension {int(np.flatnonzero(std < 0)[0])}", True
        return
    farthest = np.maximum(abs(real.low - mean), abs(real.high - mean))
    normalised = farthest / (std + _EPSILON)
    # No number of a sample lies farther than sqrt(n) standard deviations from the sample's mean.
    most = 10 * max(10.0, math.sqrt(info.frames))
    for d in np.flatnonzero(normalised > most)[:1].tolist():
        yield (
            f"the statistics of {name!r} are not of these data: dimension {d} reaches {normalised[d]:.3g} standard "
            f"deviations from the mean (std {np.broadcast_to(std, real.low.shape)[d]:.3g}, numbers from "
            f"{real.low[d]:.4g} to {real.high[d]:.4g})",
            True,
        )
        return
    scale = np.maximum(abs(real.low), abs(real.high))
    near = (std < _NEAR_ZERO * np.maximum(scale, _NEAR_ZERO)) & (real.high > real.low)
    for d in np.flatnonzero(near)[:1].tolist():
        yield (
            f"{name!r} hardly changes in dimension {d} (std {np.broadcast_to(std, scale.shape)[d]:.3g}, numbers about "
            f"{real.high[d]:.4g}): normalised, its noise is as large as what moves",
            False,
        )


def _range(
    name: str,
    keys: tuple[str, str],
    low: "NDArray[np.float64]",
    high: "NDArray[np.float64]",
    real: Extremes,
    *,
    always: bool,
) -> Iterator[tuple[str, bool]]:
    import numpy as np

    low, high = np.broadcast_to(low, real.low.shape), np.broadcast_to(high, real.low.shape)
    if (low > high).any():
        d = int(np.flatnonzero(low > high)[0])
        yield f"{keys[0]!r} of {name!r} is larger than {keys[1]!r} in dimension {d} ({low[d]:.4g}, {high[d]:.4g})", True
        return
    width = np.where(high == low, _EPSILON, high - low)
    normalised = 2 * np.maximum(real.high - low, high - real.low) / width
    for d in np.flatnonzero(normalised > 1e4)[:1].tolist():
        yield (
            f"{keys[0]!r} and {keys[1]!r} of {name!r} are {low[d]:.4g} and {high[d]:.4g} in dimension {d}, whose "
            f"numbers go from {real.low[d]:.4g} to {real.high[d]:.4g}: policies that normalise with them get up to "
            f"{normalised[d]:.2g}",
            always,
        )


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_finite, value))
    return isinstance(value, int | float) and math.isfinite(value)
