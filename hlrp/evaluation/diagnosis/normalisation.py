"""Whether statistics are of the recorded numbers: those of the dataset, and those that a checkpoint normalises with.

The statistics of any choice of whole episodes lie between those of the single episodes that differ most: a mean
between the smallest and the largest mean, a mean square likewise, a quantile likewise. What lies outside is of other
numbers, and no threshold has to be chosen. A run that trained on some episodes alone, or whose statistics were put
together from those of episodes, lies inside.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlrp.data.labelled_statistics import LabelledRows, labelled_statistics
from hlrp.data.statistics_checks import STATS, recompute
from hlrp.evaluation.diagnosis.findings import Finding, failed, passed, undecided
from hlrp.evaluation.diagnosis.recorded import ACTION, STATE, Recorded
from hlrp.evaluation.policy import LoadedPolicy

# LeRobot computes in float32 and its quantiles from histograms; in standard deviations.
_ROUNDING = 0.02
_KEYS = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
_QUANTILES = {"min": 0.0, "q01": 0.01, "q10": 0.1, "q90": 0.9, "q99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class Used:
    """Statistics that a step normalises with.

    Args:
        step: `preprocessor` or `postprocessor`.
        feature: By the policy's name.
        values: The two numbers of the mode in use, `mean` and `std` say, `[D]` each.
    """

    step: str
    feature: str
    values: Mapping[str, NDArray[np.float64]]


def statistics_in(loaded: LoadedPolicy) -> Iterator[Used]:
    """What the processors of a policy normalise numbers with; left out is what is not of the recorded numbers."""
    from lerobot.configs.types import FeatureType, NormalizationMode
    from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

    used = {**(loaded.config.input_features or {}), **(loaded.config.output_features or {})}
    for name, pipeline in (("preprocessor", loaded.preprocessor), ("postprocessor", loaded.postprocessor)):
        for step in pipeline.steps:
            if not isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
                continue
            for key, feature in step.features.items():
                mode = step.norm_map.get(feature.type, NormalizationMode.IDENTITY).name
                stats = (step.stats or {}).get(key)
                relative = feature.type is FeatureType.ACTION and getattr(loaded.config, "use_relative_actions", False)
                if feature.type is FeatureType.VISUAL or relative or _brought(loaded, key) or mode not in _KEYS:
                    continue
                if key in used and stats and stats.keys() >= set(_KEYS[mode]):
                    values = {k: np.asarray(stats[k], np.float64).reshape(-1) for k in _KEYS[mode]}
                    yield Used(name, key, values)


def _brought(loaded: LoadedPolicy, feature: str) -> bool:
    """Whether a policy's foundation model brought the statistics of a feature."""
    return feature == STATE and getattr(loaded.config, "state_statistics", None) is not None


def outside(episodes: Sequence[NDArray[np.float32]], values: Mapping[str, NDArray[np.float64]]) -> tuple[int, float]:
    """How far statistics lie outside of what any of the episodes can give.

    Args:
        episodes: A feature's numbers, `[T, D]` each.
        values: `mean` and `std`, or quantiles, `[D]` each.

    Returns:
        The worst dimension, and how many of its standard deviations lie between; 0: nothing does.
    """
    together = np.concatenate(episodes).astype(np.float64)
    middle, spread = together.mean(0), together.std(0)
    scale = np.where(spread > 0, spread, np.maximum(1e-3 * np.abs(middle), 1e-6))

    def beyond(value: NDArray[np.float64], each: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = each.min(0), each.max(0)
        return np.maximum(np.maximum(low - value, value - high), 0.0)

    excess: NDArray[np.float64] = np.zeros(together.shape[1])
    if "mean" in values:
        z = [(e - middle) / scale for e in episodes]
        shift = (values["mean"] - middle) / scale
        square = shift**2 + (values["std"] / scale) ** 2
        excess = beyond(shift, np.stack([e.mean(0) for e in z]))
        squares = np.stack([(e**2).mean(0) for e in z])
        # As a difference of spreads, so that it is in standard deviations too.
        root = beyond(np.sqrt(square), np.sqrt(squares))
        excess = np.maximum(excess, root)
    for key in values.keys() & _QUANTILES.keys():
        each = np.stack([np.quantile(e, _QUANTILES[key], axis=0) for e in episodes])
        excess = np.maximum(excess, beyond(values[key] / scale, each / scale))
    worst = int(np.argmax(excess))
    return worst, float(excess[worst]) if excess[worst] > _ROUNDING else 0.0


def check_dataset(recorded: Recorded, used: Sequence[Used]) -> Finding:
    """Whether the dataset's own statistics are of its numbers."""
    where = recorded.info.root / STATS
    try:
        stats = json.loads(where.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        fix = recompute(recorded.info)
        return failed("data", "statistics", "wrong_statistics", f"{STATS} cannot be read: {error}", fix)
    seen = []
    for one in used:
        old = recorded.original(one.feature)
        found = stats.get(old) or {}
        if recorded.numbers(one.feature) is None or not one.values.keys() <= found.keys() or one.feature in seen:
            continue
        seen.append(one.feature)
        values = {key: np.asarray(found[key], np.float64).reshape(-1) for key in one.values}
        if problem := _problem(recorded, one.feature, values):
            line = f"{STATS} is not of the recorded numbers: {problem[0]}"
            fix = f"compute it again and train again: {recompute(recorded.info)}"
            return failed("data", "statistics", "wrong_statistics", line, fix, feature=old, **problem[1])
    if not seen:
        return undecided("data", "statistics", "nothing that is normalised is in the dataset's statistics")
    return passed("data", "statistics", f"{STATS} is of the recorded numbers ({', '.join(seen)})", features=seen)


def check_normaliser(recorded: Recorded, used: Sequence[Used], *, mixture: bool) -> Finding:
    """Whether a checkpoint normalises with statistics of the data; those in the dataset count, right or wrong.

    A ``mixture`` has statistics of several datasets, which are not those of this one.
    """
    if mixture:
        return undecided("processors", "normaliser", "not judged: a mixture normalises with statistics of all its data")
    where = recorded.info.root / STATS
    try:
        stats = json.loads(where.read_text(encoding="utf8"))
    except (OSError, ValueError):
        stats = {}
    seen, other = [], []
    for one in used:
        if recorded.numbers(one.feature) is None:
            continue
        seen.append(one.feature)
        found = stats.get(recorded.original(one.feature)) or {}
        if all(key in found and np.allclose(found[key], value, rtol=1e-3) for key, value in one.values.items()):
            continue
        if problem := _problem(recorded, one.feature, one.values):
            line = f"the {one.step} normalises with statistics that are not of this dataset: {problem[0]}"
            fix = "restore the processors that were saved with these weights, or train again from this dataset"
            evidence = {"step": one.step, "feature": one.feature, **problem[1]}
            return failed("processors", "normaliser", "stale_normaliser", line, fix, **evidence)
        other.append(one.feature)
    names = ", ".join(dict.fromkeys(other or seen))
    if not seen:
        return undecided("processors", "normaliser", "the processors normalise nothing that the dataset has")
    if other:
        line = f"the processors normalise {names} otherwise than {STATS} says, but as some of its episodes have it"
        return undecided("processors", "normaliser", line)
    return passed("processors", "normaliser", f"the processors normalise with the dataset's statistics ({names})")


def _problem(
    recorded: Recorded, feature: str, values: Mapping[str, NDArray[np.float64]]
) -> tuple[str, dict[str, Any]] | None:
    """What is wrong with statistics, in words and numbers."""
    episodes = recorded.by_episode(feature)
    joint = recorded.joints(feature)
    if any(len(value) not in (1, len(joint)) for value in values.values()):
        return f"{feature} has {len(joint)} dimensions, they have another number", {}
    values = {key: np.broadcast_to(value, (len(joint),)) for key, value in values.items()}
    worst, excess = outside(episodes, values)
    if not excess:
        return None
    numbers = np.concatenate(episodes)[:, worst]
    moments = {"mean": float(numbers.mean(dtype=np.float64)), "std": float(numbers.std(dtype=np.float64))}
    real = {k: moments[k] if k in moments else float(np.quantile(numbers, _QUANTILES[k])) for k in values}
    said = ", ".join(f"{key} {float(value[worst]):.4g}" for key, value in values.items())
    true = ", ".join(f"{key} {value:.4g}" for key, value in real.items())
    text = f"{feature}, {joint[worst]}: {said}; the data have {true}, and no episode of them is like it"
    given = {key: float(value[worst]) for key, value in values.items()}
    return text, {"joint": joint[worst], "statistics": given, "recorded": real, "spreads_outside": round(excess, 3)}


def with_dataset_statistics(loaded: LoadedPolicy, recorded: Recorded) -> LoadedPolicy:
    """The policy with processors that normalise with what the dataset's numbers really are; pictures as before."""
    from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
    from lerobot.processor.normalize_processor import hotswap_stats

    from hlrp.evaluation.relative_actions import keep_references

    true = labelled_statistics(LabelledRows(recorded.info, recorded.table.present))
    true = {recorded.rename.get(name, name): value for name, value in true.items()}
    pipelines = []
    for pipeline in (loaded.preprocessor, loaded.postprocessor):
        steps = [s for s in pipeline.steps if isinstance(s, NormalizerProcessorStep | UnnormalizerProcessorStep)]
        stats = {key: value for step in steps for key, value in (step.stats or {}).items()}
        changed = {k: v for k, v in true.items() if k in {*stats, ACTION} and not _brought(loaded, k)}
        pipelines.append(hotswap_stats(pipeline, {**stats, **changed}))
    before, after = pipelines
    # The copies are not linked with each other.
    return LoadedPolicy(loaded.policy, loaded.config, before, after, keep_references(loaded.policy, before, after))
