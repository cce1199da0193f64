"""A command of this project as a batch job of Slurm; submitit writes the script and submits it."""

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.config.slurm_section import SlurmSection
from hlrp.errors import UserError, WorkError, root_cause

if TYPE_CHECKING:
    from submitit import SlurmExecutor

# Seconds that a training has to save in, before its time is up.
_NOTICE_S = 90
# What the shell of the job puts in place of these.
JOB, TASK = "%JOB%", "%TASK%"
_SHELL = {JOB: '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"', TASK: '"$SLURM_ARRAY_TASK_ID"'}


class Submitted(NamedTuple):
    """A job that is in the queue.

    Args:
        job: Slurm's number.
        log: File of its output; of an array with `%a` in place of a task's number.
    """

    job: str
    log: Path


def script(
    command: Sequence[str], section: SlurmSection, *, processes: int = 1, nodes: int = 1, name: str, folder: Path
) -> str:
    """The batch script that runs a command, once in every process.

    The command takes the place of the shell, which would not pass a signal on to it.

    Args:
        command: Its arguments; `JOB` and `TASK` in them stand for the job's numbers.
        section: Resources.
        processes: On each node.
        nodes: How many.
        name: Of the job.
        folder: Of its log.

    Raises:
        UserError: submitit is not installed.
    """
    executor = _executor(folder)
    executor.update_parameters(**_parameters(section, processes, nodes, name, folder))
    return executor._make_submission_file_text(_shell(command, section), "")


def submit(
    command: Sequence[str], section: SlurmSection, *, processes: int = 1, nodes: int = 1, name: str, folder: Path
) -> Submitted:
    """Put a command into Slurm's queue; arguments as of `script`.

    Raises:
        UserError: There is no Slurm here, or no submitit.
        WorkError: Slurm refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no Slurm on this machine: the command sbatch is not found",
            where="--launcher slurm",
            fix="submit on a login node of the cluster, or leave it out; `hlrp slurm template` prints a script",
        )
    folder.mkdir(parents=True, exist_ok=True)
    executor = _executor(folder)
    executor.update_parameters(**_parameters(section, processes, nodes, name, folder))
    try:
        job = executor._submit_command(_shell(command, section)).job_id
    except Exception as error:
        raise WorkError(f"Slurm did not take the job: {root_cause(error)}") from error
    return Submitted(job, folder / f"{job}{'_%a' if section.array else ''}.log")


def _executor(folder: Path) -> "SlurmExecutor":
    try:
        from submitit import SlurmExecutor
    except ModuleNotFoundError as error:
        raise UserError(
            "submitit is not installed",
            where="--launcher slurm",
            fix="pip install 'lerobot_policy_felix_bundle[slurm]'",
        ) from error

    class CommandExecutor(SlurmExecutor):
        """Runs a command as it is, where submitit would pickle a function."""

        @classmethod
        def affinity(cls) -> int:
            """A script can be written on a machine without Slurm."""
            return 1

    return CommandExecutor(folder)


def _parameters(section: SlurmSection, processes: int, nodes: int, name: str, folder: Path) -> dict[str, Any]:
    others = {
        "output": str(folder / ("%A_%a.log" if section.array else "%j.log")),
        # To every process, and not to the shell; a training saves and goes back into the queue.
        "signal": f"TERM@{_NOTICE_S}",
        ("requeue" if section.requeue else "no-requeue"): True,
    }
    return {
        "job_name": name,
        "partition": section.partition,
        "time": section.time,
        "nodes": nodes,
        "ntasks_per_node": processes,
        "gpus_per_node": section.gpus_per_node,
        "cpus_per_task": section.cpus,
        "account": section.account,
        "qos": section.qos,
        "setup": section.setup or None,
        "wckey": None,
        "stderr_to_stdout": True,
        "use_srun": False,  # submitit's own would send the output of every process to a file
        "additional_parameters": others | ({"array": section.array} if section.array else {}),
    }


def _shell(command: Sequence[str], section: SlurmSection) -> str:
    # srun does not take the cores of a process over from sbatch.
    srun = ["exec", "srun", "--unbuffered", *([f"--cpus-per-task={section.cpus}"] if section.cpus else [])]
    return " ".join(map(_quoted, [*srun, *command]))


def _quoted(word: str) -> str:
    parts = re.split(f"({'|'.join(_SHELL)})", word)
    return "".join(_SHELL.get(part) or shlex.quote(part) for part in parts if part) or "''"


def this_command(arguments: Sequence[str]) -> list[str]:
    """`hlrp` with arguments, by the interpreter that runs now."""
    return [sys.executable, "-m", "hlrp_cli.main", *arguments]
