"""`hlrp runs`: list the runs of this folder, show one, compare several."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp.errors import UserError
from hlrp.files import json_text

if TYPE_CHECKING:
    from hlrp.runs import RunDirectory


group = typer.Typer(help="List runs, show one, or compare several.", no_args_is_help=True)


@group.command("list")
def list_(
    root: Annotated[Path, typer.Argument(help="Folder to search.")] = Path("outputs"),
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every run below a folder, newest last."""
    from hlrp.runs import list_runs
    from hlrp.slurm import job_states

    runs = list_runs(root, warn)
    if json_output:
        typer.echo(json_text([{"path": str(r.path), **r.manifest.to_json()} for r in runs]))
        return
    if not runs:
        typer.echo(f"no runs below {root}; `hlrp train` makes one")
        return
    jobs = {run.manifest.job.id: run.manifest.status for run in runs if run.manifest.job is not None}
    # Of a run that has come to its end there is nothing to ask, and every question takes a moment.
    states = job_states(job for job, status in jobs.items() if status in ("running", "interrupted"))
    rows = [("started", "status", *(["job"] if jobs else []), "policy", "steps", "loss", "run")]
    for run in runs:
        started, status, *rest = _row(run)
        rows.append((started, status, *([_job(run, states)] if jobs else []), *rest))
    # Plain text: a table would cut the paths on a narrow terminal, and they are there to be copied.
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        typer.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _job(run: "RunDirectory", states: Mapping[str, str]) -> str:
    job = run.manifest.job
    return "" if job is None else f"{job.id} {states.get(job.id, '')}".rstrip()


def warn(problem: UserError) -> None:
    """Say what of some runs is left out."""
    typer.echo(f"warning: {problem.what} ({problem.where})", err=True)


def _row(run: "RunDirectory") -> tuple[str, ...]:
    manifest = run.manifest
    try:
        latest = run.latest()
    except UserError as problem:
        warn(problem)
        latest = None
    done = f"{latest.step if latest else 0}/{'?' if manifest.steps is None else manifest.steps}"
    started = manifest.started[:19].replace("T", " ")
    loss = manifest.final_metrics.get("loss", "")
    return started, manifest.status or "?", manifest.policy or "?", done, _number(loss), str(run.path)


def _number(value: object) -> str:
    """A metric as people read it; one that is no number (null: it was not finite) as it is."""
    return f"{value:.4g}" if isinstance(value, int | float) else "nan" if value is None else str(value)


@group.command()
def show(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run was, what it reached, and what its folder holds."""
    from hlrp.runs import RunDirectory
    from hlrp.runs.code_effect import describe_code_effect, last_code_effect

    directory = RunDirectory.open(run)
    effect = last_code_effect(directory.metrics())
    manifest = directory.manifest
    checkpoints = directory.checkpoints()
    evaluations = directory.evaluations()
    if json_output:
        state = [
            {"step": c.step, "path": str(c.path), "complete": c.complete, "problem": c.problem} for c in checkpoints
        ]
        shown = {
            "path": str(directory.path),
            **manifest.to_json(),
            "checkpoints": state,
            "code_effect": effect,
            "evaluations": [str(e) for e in evaluations],
        }
        typer.echo(json_text(shown))
        return
    dataset = manifest.dataset
    rows = {
        "run": directory.path,
        "status": (manifest.status or "?") + (f" ({manifest.reason})" if manifest.reason else ""),
        "trainer": manifest.trainer,
        "policy": manifest.policy,
        "dataset": f"{dataset.root or dataset.repo_id} (fingerprint {dataset.fingerprint or '-'})",
        "seed": manifest.seed,
        **({} if manifest.job is None else {"job": f"{manifest.job.id} (log {manifest.job.log or '-'})"}),
        "started": manifest.started or None,
        "ended": manifest.ended or "-",
        "metrics": ", ".join(f"{k} {_number(v)}" for k, v in manifest.final_metrics.items()) or "-",
        **({} if effect is None else {"codes": describe_code_effect(effect)}),
        "versions": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
    }
    for name, value in rows.items():
        typer.echo(f"{name:<12}{value}")
    for checkpoint in checkpoints:
        typer.echo(
            f"{'checkpoint':<12}{checkpoint.path}" + (f"  BROKEN: {checkpoint.problem}" if checkpoint.problem else "")
        )
    for warning in manifest.warnings:
        typer.echo(f"{'warning':<12}{warning}")
    for evaluation in evaluations:
        typer.echo(f"{'evaluation':<12}{evaluation}")


@group.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of runs.")],
    metric: Annotated[list[str] | None, typer.Option(help="A metric of the runs, or success; repeatable.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare what runs reached; those that differ in their seed alone are one row, with 95 % intervals."""
    from hlrp.evaluation.seeds import compare_runs, table
    from hlrp.runs import RunDirectory, list_runs

    found = [run for path in runs for run in list_runs(path, warn) or [RunDirectory.open(path)]]
    rows = compare_runs(list({run.path: run for run in found}.values()), metric or [], warn=warn)
    typer.echo(json_text([row.to_json() for row in rows]) if json_output else table(rows))
