"""Runs beside each other: those that differ in their seed alone are one row, with means and intervals."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hlrp.config.loading import load_values
from hlrp.errors import UserError, suggest
from hlrp.evaluation.compare import saved_results
from hlrp.evaluation.request import EvalResult
from hlrp.evaluation.statistics import MeanInterval, mean_interval
from hlrp.files import json_text
from hlrp.runs import RunDirectory
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
    settings = [dict(_flat(load_values(run.path / CONFIG))) for run in runs]
    told = {key for each in settings for key in each if any(other.get(key) != each[key] for other in settings)}
    found = [_scores(run, warn) for run in runs]
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
        values = {name: [found[i][name] for i in numbers if name in found[i]] for name in shown}
        rows.append(
            Row(
                settings={key: settings[numbers[0]].get(key) for key in sorted(told)},
                runs=[str(runs[i].path) for i in numbers],
                unfinished=sum(runs[i].manifest.status != "finished" for i in numbers),
                scores={name: mean_interval(each) for name, each in values.items() if each},
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text: settings, number of runs, and `mean [low, high]` for every metric."""
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    cells = [[*keys, "runs", *names]]
    for row in rows:
        count = f"{len(row.runs)}" + (f" ({row.unfinished} unfinished)" if row.unfinished else "")
        scores = [str(row.scores[name]) if name in row.scores else "-" for name in names]
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


def _scores(run: RunDirectory, warn: Callable[[UserError], object]) -> dict[str, float]:
    """The last value of everything that a run's rows hold, and the success of its newest evaluation."""
    found = {name: value for row in run.metrics() for name, value in row.items()}
    newest = next(_evaluations(run, warn), None)
    found |= {} if newest is None else {"success": (newest.overall() or {}).get("success_rate")}
    numbers = {n: float(v) for n, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


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
