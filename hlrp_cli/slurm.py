"""`hlrp slurm template`: a batch script for those who submit by themselves."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hlrp_cli.launching import read_section

group = typer.Typer(help="Batch scripts for Slurm.", no_args_is_help=True)

_COMMAND = "hlrp train -c CONFIG --output-dir RUN --resume auto"


@group.command()
def template(
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="partition, time, nodes, ...; repeatable."),
    ] = None,
    command: Annotated[str, typer.Option(help="What the job runs.")] = _COMMAND,
) -> None:
    """Print a script for sbatch that does what `--launcher slurm` does; logs go to the folder it is submitted from."""
    from hlrp.submission import script

    section = read_section(slurm or [])
    words = shlex.split(command)
    processes = section.gpus_per_node or 1
    typer.echo(script(words, section, processes=processes, nodes=section.nodes, name="hlrp", folder=Path()))
