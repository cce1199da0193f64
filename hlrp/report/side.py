"""A run or an evaluation as far as pages compare it with others: rows, settings, evaluations, and what is damaged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.evaluation.compare import newest_in_common
from hlrp.evaluation.plan import find_run
from hlrp.evaluation.request import RESULTS
from hlrp.report.curves import Chart, draw, numeric_keys, series_of
from hlrp.report.evaluations import Evaluation, Versus, VideoRoom, against, read_evaluations
from hlrp.report.origins import read_config, run_name
from hlrp.runs import RunDirectory, RunManifest
from hlrp.runs.code_effect import FIGURES
from hlrp.runs.directory import MANIFEST, METRICS

TITLES = {
    "lr": "learning rate",
    "data_wait": "share of the time spent waiting for data",
    "rss_mb": "memory of the process, MB",
    "gpu_mb": "memory of the GPU, MB",
    "grad_norm": "norm of the gradient",
    "samples_per_s": "samples a second",
    "update_s": "seconds a step",
}
_LOSSES = ("loss", "val_loss", "eval_loss")
# In rows of LeRobot's trainer up to 0.2: percent of the rollouts, and their seconds.
_OLD_SUCCESS, _OLD_SECONDS = "pc_success", ("eval_s", "eval_ep_s")
_NOT_OF_THE_RUN = ("output_dir", "job_name")
_MOST_SETTINGS = 60


@dataclass(frozen=True)
class Side:
    """One of the runs that a page shows.

    Args:
        name: For people.
        run: Its folder; None for an evaluation alone.
        rows: Of its metrics.
        evaluations: Newest first.
        problems: What of it cannot be read.
    """

    name: str
    run: RunDirectory | None
    rows: list[dict[str, Any]]
    evaluations: list[Evaluation]
    problems: list[str] = field(default_factory=list)


def read_side(path: Path, room: VideoRoom, where: str) -> Side:
    """Read a run, the run that a checkpoint lies in, or a `results.json` or its folder; damage is told, not raised.

    Raises:
        UserError: It is none of these.
    """
    if path.suffix == ".json" or (path / RESULTS).is_file():
        file = path if path.suffix == ".json" else path / RESULTS
        evaluations, problems = read_evaluations([file], room)
        if not evaluations:
            raise UserError(problems[0], where=where, fix="give a run, or a results.json of hlrp eval")
        return Side(file.absolute().parent.name, None, [], evaluations)
    if (path / MANIFEST).exists():
        try:
            return read_run(RunDirectory.open(path), room)
        except UserError as problem:
            damaged = RunDirectory(path.absolute(), RunManifest())
            return read_run(damaged, room, [f"{problem.what}; what it would say is missing here"])
    run = find_run(path.absolute()) if path.is_dir() else None
    if run is None:
        raise UserError(
            f"{path} holds no run and no evaluation" if path.exists() else f"{path} does not exist",
            where=where,
            fix="give a folder that `hlrp train` or `hlrp eval` made; `hlrp runs list` shows the runs",
        )
    return read_run(run, room)


def read_run(run: RunDirectory, room: VideoRoom, problems: Sequence[str] = ()) -> Side:
    """A run's rows and evaluations."""
    said, rows = list(problems), []
    try:
        rows = list(run.metrics())
        if damaged := run.damaged_lines():
            listed = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
            said.append(f"{METRICS}: {len(damaged)} damaged line{'s' * (len(damaged) > 1)} left out ({listed})")
    except UserError as problem:
        said.append(problem.what)
    evaluations, unread = read_evaluations(run.evaluations()[::-1], room)
    return Side(run_name(run.path), run, rows, evaluations, said + unread)


def held_out(key: str) -> bool:
    """Whether a metric is one of held-out data or of rollouts."""
    measured = key.startswith(("val_", "eval_")) and key not in _OLD_SECONDS
    return measured or key == _OLD_SUCCESS or key in FIGURES


def detailed(key: str) -> bool:
    """Whether a metric is that of one code position, of which there may be hundreds."""
    # Tasks of LIBERO are numbered, too.
    return key.rpartition("_")[2].isdecimal() and not key.startswith("eval_success_")


def curves(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Chart]]]:
    """Headings with their charts; every number of the rows is in one."""
    keys = numeric_keys(rows)
    work = [key for key in TITLES if key in keys]
    scores = [key for key in keys if held_out(key) and key not in _LOSSES and not detailed(key)]
    losses = [key for key in keys if "loss" in key and not held_out(key) and key not in _LOSSES]
    rest = [key for key in keys if key not in {*_LOSSES, *work, *scores, *losses}]
    together = [s for key in _LOSSES if (s := series_of(rows, key)) is not None]
    groups = [
        ("Loss", [draw("loss", together)] if together else []),
        ("Held-out data", []),
        ("Work", []),
        ("All other metrics", []),
    ]
    for (_, charts), names in zip(groups, (losses, scores, work, rest), strict=True):
        drawn = ((key, s) for key in names if (s := series_of(rows, key)) is not None)
        charts += [draw(TITLES.get(key, key), [s], linear=key == "lr") for key, s in drawn]
    return [(title, charts) for title, charts in groups if charts]


@dataclass(frozen=True)
class Comparison:
    """A run beside others.

    Args:
        names: Of all, this run first.
        charts: Curves that at least two of them have.
        rows: Metric, and its last value in each; None: it has none.
        settings: Key, and its value in each, of those that differ.
        more_settings: Differing keys that are not shown.
        versus: Evaluations, one for each other run.
    """

    names: list[str]
    charts: list[Chart]
    rows: list[tuple[str, list[float | None]]]
    settings: list[tuple[str, list[str]]]
    more_settings: int
    versus: list[Versus]


def beside(this: Side, others: Sequence[Side]) -> Comparison:
    """Put a run beside others."""
    sides = [this, *others]
    names = _distinct([side.name for side in sides])
    keys = list(dict.fromkeys(key for side in sides for key in numeric_keys(side.rows)))
    charts, rows = [], []
    for key in (k for k in keys if k in _LOSSES or (held_out(k) and not detailed(k))):
        found = [series_of(side.rows, key, name) for side, name in zip(sides, names, strict=True)]
        rows.append((key, [None if s is None else s.last.value for s in found]))
        have = [s for s in found if s is not None]
        if len(have) > 1:
            charts.append(draw(key, have))
    common = newest_in_common([[evaluation.result for evaluation in side.evaluations] for side in sides])
    rates = [None if result is None else result.overall() for result in common]
    if any(rates):
        rows.append(("success on the same episodes", [r["success_rate"] if r else None for r in rates]))
    differ = _settings([{} if side.run is None else read_config(side.run.path) for side in sides])
    versus = [against(this.evaluations, other.evaluations, name) for other, name in zip(others, names[1:], strict=True)]
    return Comparison(names, charts, rows, differ[:_MOST_SETTINGS], max(0, len(differ) - _MOST_SETTINGS), versus)


def _distinct(names: Sequence[str]) -> list[str]:
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _settings(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Keys that are not the same in all configurations, with each one's value."""
    flat = [dict(_flat(config)) for config in configs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [(key, [one.get(key, "–") for one in flat]) for key in keys if key not in _NOT_OF_THE_RUN]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None:
        yield prefix, str(value)
