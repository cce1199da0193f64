"""A scheduler that records: `sbatch`, `srun`, `scontrol` and `squeue` as shell scripts in a folder."""

import os
from pathlib import Path

JOB = "JobId=7 JobState={state} Requeue={requeue} BatchFlag={batch} PreemptTime={preempted} StdOut=/logs/7.log"
_SCRIPTS = {
    "sbatch": 'cp "$1" "$HERE/job.sh"\necho "sbatch $*" >> "$HERE/calls"\necho "Submitted batch job 7"\n',
    # Every process of a step is this one.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
    "scontrol": 'echo "scontrol $*" >> "$HERE/calls"\n[ "$1" = requeue ] || cat "$HERE/job.txt"\n',
    "squeue": 'cat "$HERE/queue.txt" 2> /dev/null && exit\necho "error: Invalid job id specified" >&2\nexit 1\n',
}


class FakeSlurm:
    """Slurm's commands in ``folder``, and what they are to say.

    Args:
        folder: Made here.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        for name, text in _SCRIPTS.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\nHERE={folder}\n{text}")
            path.chmod(0o755)
        self.says_of_job()

    def says_of_job(self, state: str = "RUNNING", requeue: int = 1, batch: int = 1, preempted: str = "None") -> None:
        """What `scontrol show job` prints."""
        said = JOB.format(state=state, requeue=requeue, batch=batch, preempted=preempted)
        (self.folder / "job.txt").write_text(said + "\n")

    def says_of_queue(self, text: str | None) -> None:
        """What `squeue` prints; None: that there is no such job."""
        path = self.folder / "queue.txt"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text + "\n")

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process in job 7."""
        return {"PATH": f"{self.folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}

    @property
    def calls(self) -> list[str]:
        """Of sbatch and scontrol, but for those that ask."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [line for line in lines if not line.startswith("scontrol show")]
