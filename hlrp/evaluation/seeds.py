"""Runs beside each other: those that differ in their seed alone are one row, with means and intervals."""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hlrp.config.loading import load_values
from hlrp.errors import UserError, suggest
from hlrp.evaluation.compare import compare, newest_in_common, saved_results
from hlrp.evaluation.request import EvalResult
from hlrp.evaluation.statistics import MeanInterval, mean_interval
from hlrp.files import json_text
from hlrp.runs import RunDirectory, checkpoint_step, resolve_pretrained
from hlrp.runs.directory import CONFIG
from hlrp.runs.results import made_while_training

SHOWN = ("success", "eval_success", "val_loss", "eval_loss", "loss")
"""What is compared where nothing else is asked for; `success` is that of `hlrp eval`."""
# They decide nothing of what a run is, or are what its row is a mean over.
_LEFT_OUT = frozenset({"trainer.seed", "output_dir", "job_name", "push_to_hub", "allow_download"})


@dataclass(frozen=True)
class Row:
    """Runs of the same settings.

    Args:
        settings: Those of them that not all compared runs have, by dotted key.
        runs: Their folders.
        unfinished: How many of them have not come to their end.
        scores: Name to mean over the runs, with its interval.
    """

    settings: dict[str, Any]
    runs: list[str]
    unfinished: int
    scores: dict[str, MeanInterval]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def compare_runs(
    runs: Sequence[RunDirectory], metrics: Sequence[str] = (), *, warn: Callable[[UserError], object]
) -> list[Row]:
    """Compare runs by what they reached, in the order in which their settings first come.

    Args:
        runs: At least one.
        metrics: Names in `metrics.jsonl`, or `success`; none: those of `SHOWN` that any run has.
        warn: Told what of the runs is left out.

    Raises:
        UserError: A configuration cannot be read, or no run has a metric that is asked for.
    """
    values = [load_values(run.path / CONFIG) for run in runs]
    settings = [dict(_flat(each)) for each in values]
    told = {key for each in settings for key in each if any(other.get(key) != each[key] for other in settings)}
    rates = _success(runs, warn)
    found = [_scores(run, rate) for run, rate in zip(runs, rates, strict=True)]
    known = list(dict.fromkeys(name for each in found for name in each))
    for name in metrics:
        if name not in known:
            raise UserError(f"none of the runs has a metric {name!r}", where="--metric", fix=suggest(name, known))
    groups: dict[str, list[int]] = {}
    for number, each in enumerate(settings):
        groups.setdefault(json_text({key: each.get(key) for key in sorted(told)}), []).append(number)
    shown = list(metrics) or [name for name in SHOWN if name in known]
    rows = []
    for numbers in groups.values():
        _warn_of_equal_seeds({runs[i].path: (values[i].get("trainer") or {}).get("seed") for i in numbers}, warn)
        scores = {name: [found[i][name] for i in numbers if name in found[i]] for name in shown}
        rows.append(
            Row(
                settings={key: settings[numbers[0]].get(key) for key in sorted(told)},
                runs=[str(runs[i].path) for i in numbers],
                unfinished=sum(runs[i].manifest.status != "finished" for i in numbers),
                scores={n: mean_interval(each, rates=_is_rate(n)) for n, each in scores.items() if each},
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text: settings, number of runs, and `mean [low, high]` for every metric.

    Where not all of a row's runs have a metric, `(n=2)` says how many do.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    cells = [[*keys, "runs", *names]]
    for row in rows:
        count = f"{len(row.runs)}" + (f" ({row.unfinished} unfinished)" if row.unfinished else "")
        scores = [_shown(row.scores.get(name), len(row.runs)) for name in names]
        cells.append([*(str(row.settings.get(key, "-")) for key in keys), count, *scores])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif key not in _LEFT_OUT:
            yield key, value


def _shown(score: MeanInterval | None, runs: int) -> str:
    if score is None:
        return "-"
    return str(score) if score.n == runs else f"{score} (n={score.n})"


def _is_rate(name: str) -> bool:
    return name == "success" or name.startswith("eval_success")


def _warn_of_equal_seeds(seeds: Mapping[Path, Any], warn: Callable[[UserError], object]) -> None:
    for seed in dict.fromkeys(seeds.values()):
        same = [path for path, its in seeds.items() if its == seed]
        if seed is not None and len(same) > 1:
            what = (
                f"{len(same)} runs of one row have the seed {seed}: intervals, which take each for one, are too narrow"
            )
            warn(UserError(what, where=", ".join(map(str, same)), fix="leave out all of them but one"))


def _scores(run: RunDirectory, success: float | None) -> dict[str, float]:
    """The last value of everything that a run's rows hold, and what `hlrp eval` found."""
    found = {name: value for row in run.metrics() for name, value in row.items()}
    found |= {} if success is None else {"success": success}
    numbers = {n: float(v) for n, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _success(runs: Sequence[RunDirectory], warn: Callable[[UserError], object]) -> list[float | None]:
    """Of each run what `hlrp eval` found of its newest checkpoint, on episodes that all evaluated ones have."""
    sides = [_of_the_newest_checkpoint(run, warn) for run in runs]
    common = newest_in_common(sides)
    if any(sides) and not any(common):
        (first, mine), *others = [(run.path, side[0]) for run, side in zip(runs, sides, strict=True) if side]
        reasons = {}
        for path, theirs in others:
            try:
                compare(mine, theirs.to_json(), path)
            except UserError as problem:
                reasons[path] = problem.what
        reason = next(iter(reasons.values()), "older results do not say all of their environment")
        where = f"{first} | {', '.join(str(path) for path in reasons or [path for path, _ in others])}"
        warn(UserError(f"success is left out: {reason}", where=where, fix="evaluate all alike: hlrp eval RUN"))
    return [None if result is None else float((result.overall() or {})["success_rate"]) for result in common]


def _of_the_newest_checkpoint(run: RunDirectory, warn: Callable[[UserError], object]) -> list[EvalResult]:
    """The evaluations of a run's policy as it ended, newest first; it is told where there are others alone."""
    found = list(_evaluations(run, warn))
    if not found:
        return []
    try:
        newest = checkpoint_step(resolve_pretrained(run.path).parent)
    except UserError:  # its checkpoints were taken away, say
        newest = max((step for result in found if (step := _step(result)) is not None), default=None)
    own = [result for result in found if _step(result) == newest]
    if not own:
        what = f"evaluated were other checkpoints than its newest one, of step {newest}: their success is left out"
        warn(UserError(what, where=str(run.path), fix=f"evaluate it: hlrp eval {shlex.quote(str(run.path))}"))
    return own


def _step(result: EvalResult) -> int | None:
    """Of the checkpoint that was evaluated; None: it was one of `best/`, an export, or another folder."""
    policy = result.provenance.get("policy") or {}
    return policy.get("step") if Path(str(policy.get("path"))).parts[-3:-2] == ("checkpoints",) else None


def _evaluations(run: RunDirectory, warn: Callable[[UserError], object]) -> Iterator[EvalResult]:
    """What `hlrp eval` found of a run's policy, newest first; files that cannot be read are told."""
    for path in reversed(run.evaluations()):
        if path.parent.parent.name != "eval" or made_while_training(path):
            continue
        try:
            result = saved_results(path, None)
        except UserError as problem:
            warn(problem)
            continue
        if result.episodes:
            yield result
