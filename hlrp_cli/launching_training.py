"""`hlrp train --launcher slurm`: a training as a batch job that goes on by itself until it is finished."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from hlrp.errors import UserError
from hlrp.files import json_text
from hlrp.slurm import own_job
from hlrp_cli.launching import without_launcher


def submit_training(run: Any, arguments: Sequence[str], going_on: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Submit a training, and say where it will be seen.

    Args:
        run: What is asked for.
        arguments: As they were typed.
        going_on: The run that is continued; None: the job begins one, and goes on with it whenever it starts again.
        dry_run: Print the script instead.
        as_json: Print the answer as JSON.

    Raises:
        UserError: A mistake, or there is no Slurm here.
        WorkError: Slurm refuses the job.
    """
    from hlrp.config import require_dataset
    from hlrp.submission import JOB, TASK, script, submit, this_command
    from trainers.registry import check_keys

    check_keys(run)
    require_dataset(run)
    section, command = run.slurm, without_launcher(arguments)
    name = str(run.job_name or getattr(run.model, "policy_type", None) or getattr(run.model, "kind", "training"))
    path = going_on
    if path is None:
        path = _new_path(run.output_dir, name, JOB, TASK if section.array else "")
        kept = _without_values(command, "--output-dir", "output_dir", "--resume")
        command = [*kept, "--output-dir", str(path), "--resume", "auto"]
    elif section.array:
        raise UserError("the tasks of an array cannot all go on with one run", where="slurm.array", fix="leave it out")
    resources = {"section": section, "name": f"hlrp-{name}", **_numbers(run)}
    # Beside the run, whose folder is made by the job.
    folder = path.parent / "slurm"
    command = this_command([word for word in command if word not in ("--dry-run", "--json")])
    if dry_run:
        typer.echo(script(command, folder=folder, **resources))
        return
    job = submit(command, folder=folder, **resources)
    shown = str(path).replace(JOB, job.job).replace(TASK, "TASK")
    if as_json:
        typer.echo(json_text({"job": job.job, "log": str(job.log), "run": shown}))
        return
    typer.echo(f"job         {job.job}\nlog         {job.log}\nrun         {shown}")


def refuse_slurm_section(run: Any) -> None:
    """Refuse the section `slurm` where it has no effect: in a run that is neither submitted nor inside a job.

    One that says what is usual anyway, as a run's own file and `hlrp config show` write it down, asks for nothing.

    Raises:
        UserError: It asks for something.
    """
    if own_job() is None and run.slurm != type(run.slurm)():
        what = "slurm has no effect when the training runs here"
        raise UserError(what, where="slurm", fix="add --launcher slurm, or leave it out")


def _new_path(output_dir: Path | None, name: str, job: str, task: str) -> Path:
    from hlrp.runs import new_run_path

    if output_dir is not None:
        path = output_dir.absolute()
        return path / f"task-{task}" if task else path
    path = new_run_path(None, name)
    return path.with_name(f"{path.name}_job{job}" + (f"_{task}" if task else ""))


def _numbers(run: Any) -> dict[str, int]:
    """Processes on each node, and nodes."""
    section, trainer = run.slurm, run.trainer
    gpus = section.gpus_per_node
    processes = trainer.devices if trainer.devices > 1 else gpus or 1
    if gpus is not None and processes > gpus:
        raise UserError(
            f"{processes} processes on each node, but {gpus} GPUs",
            where="--devices / trainer.devices, slurm.gpus_per_node",
            fix="give one process for each GPU, or leave --devices out",
        )
    if 1 not in (section.nodes, trainer.num_nodes) and section.nodes != trainer.num_nodes:
        raise UserError(
            f"slurm.nodes is {section.nodes}, but trainer.num_nodes is {trainer.num_nodes}",
            where="--nodes / trainer.num_nodes, slurm.nodes",
            fix="give one of them",
        )
    return {"processes": processes, "nodes": max(section.nodes, trainer.num_nodes)}


def _without_values(arguments: Sequence[str], *flags: str) -> list[str]:
    kept, skip = [], False
    for word in arguments:
        if skip:
            skip = False
        elif word in flags:
            skip = True
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept
