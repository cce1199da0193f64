"""`hlrp runs`: list the runs of this folder, show one."""

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="List runs, or show one.", no_args_is_help=True)
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="runs")


def list_(
    root: Annotated[Path, typer.Argument(help="Folder to search.")] = Path("outputs"),
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every run below a folder, newest last."""
    from hlrp.runs import list_runs

    runs = list_runs(root)
    if json_output:
        typer.echo(json.dumps([{"path": str(r.path), **r.manifest} for r in runs]))
        return
    if not runs:
        typer.echo(f"no runs below {root}; `hlrp train` makes one")
        return
    from rich.table import Table

    from hlrp_cli.console import console

    table = Table("started", "status", "policy", "steps", "loss", "run", box=None, pad_edge=False)
    for run in runs:
        manifest = run.manifest
        latest = run.latest()
        loss = manifest.get("final_metrics", {}).get("loss")
        done = f"{latest.step if latest else 0}/{manifest.get('steps', '?')}"
        started = manifest.get("started", "")[:19].replace("T", " ")
        shown = "" if loss is None else f"{loss:.4g}"
        table.add_row(started, manifest.get("status", "?"), manifest.get("policy", "?"), done, shown, str(run.path))
    console(result=True).print(table)


def show(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run was, what it reached, and what its folder holds."""
    from hlrp.runs import RunDirectory

    directory = RunDirectory.open(run)
    manifest = directory.manifest
    checkpoints = directory.checkpoints()
    evaluations = sorted(directory.path.glob("eval/*/results.json"))
    if json_output:
        state = [
            {"step": c.step, "path": str(c.path), "complete": c.complete, "problem": c.problem} for c in checkpoints
        ]
        found = {
            "path": str(directory.path),
            **manifest,
            "checkpoints": state,
            "evaluations": [str(e) for e in evaluations],
        }
        typer.echo(json.dumps(found))
        return
    dataset = manifest.get("dataset", {})
    rows = {
        "run": directory.path,
        "status": manifest.get("status", "?") + (f" ({manifest['reason']})" if manifest.get("reason") else ""),
        "trainer": manifest.get("trainer"),
        "policy": manifest.get("policy"),
        "dataset": f"{dataset.get('root') or dataset.get('repo_id')} (fingerprint {dataset.get('fingerprint', '-')})",
        "seed": manifest.get("seed"),
        "started": manifest.get("started"),
        "ended": manifest.get("ended", "-"),
        "metrics": ", ".join(f"{k} {v:.4g}" for k, v in manifest.get("final_metrics", {}).items()) or "-",
        "versions": ", ".join(f"{k} {v}" for k, v in manifest.get("versions", {}).items()),
    }
    for name, value in rows.items():
        typer.echo(f"{name:<12}{value}")
    for checkpoint in checkpoints:
        typer.echo(
            f"{'checkpoint':<12}{checkpoint.path}" + (f"  BROKEN: {checkpoint.problem}" if checkpoint.problem else "")
        )
    for warning in manifest.get("warnings", []):
        typer.echo(f"{'warning':<12}{warning}")
    for evaluation in evaluations:
        typer.echo(f"{'evaluation':<12}{evaluation}")
