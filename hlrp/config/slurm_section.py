"""The section `slurm`: what is asked of the cluster for a command that `--launcher slurm` submits."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from hlrp.config.base import Settings


def _text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Number = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int)]
"""Text that may look like a number to YAML."""


class SlurmSection(Settings):
    """Resources of a batch job, in sbatch's terms; what is not given is as the cluster has it."""

    partition: str | None = Field(default=None, min_length=1)
    time: Number | None = Field(default=None, pattern=r"^[\d:-]+$")
    """Most time: minutes, hours:minutes:seconds, or days-hours. The job requeues itself before, and goes on."""
    nodes: int = Field(default=1, ge=1, le=65536)
    gpus_per_node: int | None = Field(default=None, ge=1, le=1024)
    """GPUs on each node; a training starts one process for each."""
    cpus: int | None = Field(default=None, ge=1, le=65536)
    """Cores of each process, its data workers included."""
    account: str | None = Field(default=None, min_length=1)
    qos: str | None = Field(default=None, min_length=1)
    array: Number | None = Field(default=None, pattern=r"^[\d,:%-]+$")
    """Tasks of a job array, such as 0-4 or 0-9%2; each has a run folder of its own."""
    requeue: bool = True
    """Whether the job goes back into the queue when it is preempted or its time is up, and goes on."""
    setup: list[str] = Field(default_factory=list)
    """Lines of shell before the command, such as `module load cuda`."""
