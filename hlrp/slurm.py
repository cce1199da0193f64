"""What Slurm says of a job: the one that this process runs in, or one that a run was written by."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping

# Of a job that has processes; one that waits again after a requeue has none.
HAS_PROCESSES = frozenset(
    {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
)
_SECONDS = 20


def own_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job that this process runs in, `123`, or `123_4` of an array; None: it runs in none."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID") or None


def own_start(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job that this process runs in and how often it was put back into the queue before, `123+0`."""
    job = own_job(environment)
    return job and f"{job}+{environment.get('SLURM_RESTART_COUNT', '0')}"


def _ask(*command: str) -> tuple[int, str] | None:
    """Exit code and output of one of Slurm's commands; None: it is not here, or does not answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode, done.stdout + done.stderr


def job_state(job: str) -> str | None:
    """The queue's word for the state of a job, such as `RUNNING`; empty: it has none; None: it does not answer."""
    answer = _ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
    if answer is None:
        return None
    code, text = answer
    if code == 0:
        return next(iter(text.split()), "")
    return "" if "nvalid job id" in text else None


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """The state of each job, by Slurm's queue or its accounting; jobs that these say nothing of are left out."""
    states: dict[str, str] = {}
    for job in dict.fromkeys(jobs):
        state = job_state(job)
        if not state:
            answer = _ask("sacct", "--noheader", "--allocations", f"--jobs={job}", "--format=State%20")
            state = next(iter(answer[1].split()), "") if answer is not None and answer[0] == 0 else ""
        if state:
            states[job] = state
    return states


def own_log(environment: Mapping[str, str] = os.environ) -> str | None:
    """The file that the output of this process's batch job goes to; None: it runs in none."""
    return _fields(environment).get("StdOut")


def requeue_own_job(*, goes_on: bool, environment: Mapping[str, str] = os.environ) -> str | None:
    """Put the batch job of this process back into the queue, unless somebody cancelled it or it may not be.

    Slurm does so by itself only if a preempted job does not end before its grace is over.

    Args:
        goes_on: Whether the job's command, given again, goes on where it was. One that begins anew is put back only if
            it was preempted: at its time limit it would never come to an end.
        environment: Of this process.

    Returns:
        The job, if it is in the queue again.
    """
    job, said = own_job(environment), _fields(environment)
    preempted = said.get("PreemptTime", "None") != "None"
    if job is None or said.get("BatchFlag") != "1" or said.get("Requeue") != "1" or not (goes_on or preempted):
        return None
    if said.get("JobState") not in ("RUNNING", "PREEMPTED", "TIMEOUT"):
        return None  # cancelled by a person, or requeued already
    answer = _ask("scontrol", "requeue", job)
    return job if answer is not None and answer[0] == 0 else None


def _fields(environment: Mapping[str, str]) -> dict[str, str]:
    """What Slurm says of the job that this process runs in."""
    job = own_job(environment)
    answer = None if job is None else _ask("scontrol", "show", "job", "--oneliner", job)
    if answer is None or answer[0] != 0:
        return {}
    return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", answer[1]))
