"""`hlrp sweep`: train one configuration at several values and seeds, and compare what came of it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hlrp.errors import UserError, WorkError
from hlrp.files import json_text
from hlrp_cli.launching_training import refuse_slurm_section
from hlrp_cli.runs import warn


def sweep(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=A,B,C]...", help="Any key of the schema, at one or more values.")
    ] = None,
    config: Annotated[str | None, typer.Option("-c", "--config", help="YAML file, or a shipped name.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of each: 0-4.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the sweep; outputs/sweeps/CONFIG.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="What the table shows; repeatable.")] = None,
    allow_import: Annotated[
        list[str] | None, typer.Option(metavar="PREFIX", help="Package whose classes may be named; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and stop.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Train every combination of the values; what is done is skipped, what was broken off goes on."""
    from hlrp.config import allow_import as allow
    from hlrp.config import load_config
    from hlrp.evaluation.seeds import compare_runs, table
    from hlrp.runs import RunDirectory
    from trainers.sweep import execute, expand, last_lines

    allow(allow_import or [])
    folder = output_dir or Path("outputs") / "sweeps" / (Path(config).stem if config else "sweep")
    runs = expand(config, overrides or [], seeds, folder, allowed=allow_import or [])
    for number, run in enumerate(runs):
        # A mistake is told before anything has begun.
        asked = load_config(config, run.overrides).config
        refuse_slurm_section(asked)
        if asked.trainer.device in (None, "cuda"):
            runs[number] = replace(run, gpus=asked.trainer.devices)
    if dry_run:
        typer.echo("\n".join(run.shown() for run in runs))
        return
    outcome = execute(runs, jobs=jobs, tell=lambda line: typer.echo(line, err=True))
    # What was refused, as the run there has other settings, has no place in a table of these.
    begun = [run.path for run in runs if outcome.codes.get(run.path) != UserError.exit_code]
    there = [RunDirectory.open(path) for path in begun if (path / "run.json").is_file()]
    if there:
        rows = compare_runs(there, metric or [], warn=warn)
        typer.echo(json_text([row.to_json() for row in rows]) if json_output else table(rows))
    if outcome.failed:
        first = outcome.failed[0]
        said = "".join(f"\n  {line}" for line in last_lines(first))
        raise WorkError(f"{len(outcome.failed)} of {len(runs)} runs failed; {first}.txt ends with{said}")
