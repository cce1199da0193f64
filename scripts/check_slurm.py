"""What a cluster does to a training, and what becomes of it: the rows of `scripts/check_slurm.sh`, which starts Slurm.

Every row trains a tiny model on a tiny dataset with one of the trainers and looks at exit codes, run folders and the
queue. Times are long, since several trainings share the cores of one machine.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from make_dataset import make_dataset

MODELS = {
    "lightning": ["--model", "laq", "model.preset=tiny"],
    "lerobot": [
        *("--policy", "act", "model.chunk_size=8", "model.n_action_steps=8", "model.hidden_dim=32"),
        *("model.n_heads=2", "model.dim_feedforward=32", "model.pretrained_backbone_weights=null"),
    ],
}
PATIENCE_S = 3000.0
ENDLESS = 100_000


class Failed(Exception):  # noqa: N818 - a row of the table that says no
    """What was seen is not what was wanted."""


def tell(*command: str, timeout: float = PATIENCE_S, **extra: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with its output as text."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **extra)


def until(what: str, look: Callable[[], Any]) -> Any:
    """What ``look`` gives once that is true.

    Raises:
        Failed: It never is.
    """
    end = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > end:
            raise Failed(f"waited for ever: {what}")
        time.sleep(1)
    return found


def require(seen: bool, what: str) -> None:
    """Fail unless it was seen."""
    if not seen:
        raise Failed(what)


class Rows:
    """The rows of one trainer.

    Args:
        trainer: Its name.
        folder: Where it trains.
        data: The dataset.
    """

    def __init__(self, trainer: str, folder: Path, data: Path) -> None:
        self.trainer, self.folder = trainer, folder
        self._data = data
        folder.mkdir()

    def train(self, run: Path | None, steps: int, *more: str) -> list[str]:
        """A command that trains."""
        sizes = ["--steps", str(steps), "--batch-size", "2", "--device", "cpu", "data.num_workers=0"]
        rows = ["trainer.log_freq=1", "trainer.save_freq=1000"]
        place = ["--output-dir", str(run)] if run else []
        data = ["--dataset-root", str(self._data)]
        return ["hlrp", "train", "--trainer", self.trainer, *MODELS[self.trainer], *data, *sizes, *rows, *place, *more]

    def batch(self, command: list[str], *options: str, signal_s: int = 90) -> str:
        """Submit the script of `hlrp slurm template`; gives the job's number."""
        text = tell("hlrp", "slurm", "template", "--command", shlex.join(command), cwd=self.folder).stdout
        script = self.folder / "job.sh"
        script.write_text(text.replace("TERM@90", f"TERM@{signal_s}"))
        done = tell("sbatch", *options, str(script), cwd=self.folder)
        require(done.returncode == 0, done.stderr)
        return done.stdout.split()[-1]

    def cancelled(self) -> str:
        """`sbatch`, then a second process on the run, then `scancel`."""
        run = self.folder / "cancelled"
        job = self.batch(self.train(run, ENDLESS, "--resume", "auto"))
        until("three steps", lambda: rows_of(run) >= 3)
        second = tell("hlrp", "train", "--resume", str(run))
        refused = second.returncode == 2 and "another process is writing" in second.stderr
        require(refused, f"a second process: exit {second.returncode}, {second.stderr[-200:]}")
        tell("scancel", job)
        until("the end of the job", lambda: state(job) == "CANCELLED")
        time.sleep(3)
        require(state(job) == "CANCELLED", f"a cancelled job came back: {state(job)}")
        return f"second process refused; {saved(run)}; job {state(job)}"

    def time_limit(self) -> str:
        """A job whose time is up."""
        run = self.folder / "limit"
        job = self.batch(self.train(run, ENDLESS, "--resume", "auto"), signal_s=120)
        began = time.monotonic()
        until("three steps", lambda: rows_of(run) >= 3)
        # Its time is cut once it trains, however long the start took, and given back for the second start.
        limit_job(job, str(int((time.monotonic() - began) / 60) + 4))
        until("the requeue", lambda: restarts(job) == 1)
        limit_job(job, "UNLIMITED")
        until("going on", lambda: manifest(run).get("resumed"))
        step = manifest(run)["resumed"][0]["step"]
        tell("scancel", job)
        until("the end of the job", lambda: state(job) == "CANCELLED")
        require(step > 0, "nothing was saved")
        return f"saved at step {step}, requeued, went on"

    def preempted(self) -> str:
        """`--launcher slurm`, 60 steps, taken its nodes by a job of a higher partition, against an unbroken run."""
        run, whole = self.folder / "preempted", self.folder / "whole"
        done = tell(*self.train(run, 60), "--launcher", "slurm", "--json")
        require(done.returncode == 0, done.stderr)
        said = json.loads(done.stdout)
        until("five steps", lambda: rows_of(run) >= 5)
        tell("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        unbroken = tell(*self.train(whole, 60))
        require(unbroken.returncode == 0, unbroken.stderr)
        until("the end of the run", lambda: manifest(run)["status"] == "finished")
        found = manifest(run)
        require(len(found["resumed"]) >= 1, "it was not interrupted")
        require(found["job"] == {"id": said["job"], "log": said["log"]}, f"run.json says {found['job']}")
        require(weights(run) == weights(whole), "the weights differ")
        require(losses(run) == losses(whole), "the losses differ")
        return f"saved at step {found['resumed'][0]['step']}, requeued, finished: all files and losses equal"

    def again(self) -> str:
        """The same command, once more."""
        run = self.folder / "whole"
        before = (run / "run.json").read_bytes()
        done = tell(*self.train(run, 60, "--resume", "auto"))
        require(done.returncode == 0 and (run / "run.json").read_bytes() == before, done.stderr)
        return "exit 0, nothing trained"

    def srun(self) -> str:
        """`srun` on two nodes, against two processes on one."""
        run, one = self.folder / "srun", self.folder / "devices"
        done = tell("srun", "--nodes=2", "--ntasks-per-node=1", *self.train(run, 6))
        require(done.returncode == 0, done.stderr[-300:])
        alone = tell(*self.train(one, 6, "--devices", "2"))
        require(alone.returncode == 0, alone.stderr[-300:])
        require(manifest(run)["processes"] == 2, f"{manifest(run).get('processes')} processes")
        require(weights(run) == weights(one), "not the weights of --devices 2")
        return "exit 0, weights as of --devices 2"

    def torchrun(self) -> str:
        """torchrun on two nodes of loopback."""
        run, port = self.folder / "torchrun", 29700 + len(self.trainer)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--no-python"]
        meet = ["--master-addr=127.0.0.1", f"--master-port={port}"]
        agents = [
            subprocess.Popen(
                [*torchrun, *meet, f"--node-rank={node}", *self.train(run, 6)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for node in range(2)
        ]
        codes = [agent.wait(PATIENCE_S) for agent in agents]
        require(codes == [0, 0], f"exit codes {codes}")
        require(weights(run) == weights(self.folder / "devices"), "not the weights of --devices 2")
        return "exit 0 on both, weights as of --devices 2"

    def mistake(self) -> str:
        """Another number of nodes than was asked for."""
        done = tell("srun", "--nodes=2", "--ntasks-per-node=1", *self.train(self.folder / "mistake", 6, "--nodes", "3"))
        ended = sorted(re.findall(r"task (\d): Exited with exit code 2", done.stderr))
        messages = done.stderr.count("error: trainer.num_nodes")
        require(ended == ["0", "1"] and messages == 1, done.stderr[-300:])
        return "one message, exit 2 on both"

    def array(self) -> str:
        """`sbatch --array=0-1`, with no folder named."""
        job = self.batch(self.train(None, 2), "--array=0-1")
        until("both tasks", lambda: state(job) == "COMPLETED")
        runs = sorted(path.parent.name for path in self.folder.glob("outputs/*/*/run.json"))
        numbers = [name.partition("_job")[2] for name in runs]
        require(numbers == [f"{job}_0", f"{job}_1"], f"folders {runs}")
        return "a folder each, ..." + ", ...".join(f"_job{number}" for number in numbers)


def manifest(run: Path) -> dict[str, Any]:
    """What a run says of itself."""
    said: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf8"))
    return said


def rows_of(run: Path) -> int:
    """Rows of metrics so far."""
    path = run / "metrics.jsonl"
    return len(path.read_text(encoding="utf8").splitlines()) if path.is_file() else 0


def losses(run: Path) -> list[tuple[int, float]]:
    """Step and loss of every row."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf8").splitlines())
    return [(row["step"], row["loss"]) for row in rows]


def weights(run: Path) -> dict[str, str]:
    """Digest of all tensors of the last checkpoint: weights, optimizer and random state."""
    last = (run / "checkpoints" / "last").resolve()
    return {
        str(path.relative_to(last)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in last.rglob("*.safetensors")
    }


def saved(run: Path) -> str:
    """How an interrupted run stands."""
    said = manifest(run)
    require(said["status"] == "interrupted" and bool(said["checkpoints"]), f"{said['status']}, {said['checkpoints']}")
    return f"checkpoint {said['checkpoints'][-1]} saved, interrupted"


def state(job: str) -> str:
    """Slurm's word for a job; of an array the one that all tasks share, else nothing."""
    words = set(tell("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").stdout.split())
    return words.pop() if len(words) == 1 else ""


def limit_job(job: str, minutes: str) -> None:
    """Give a job another time limit."""
    done = tell("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    require(done.returncode == 0, done.stderr)


def restarts(job: str) -> int:
    """How often a job was put back into the queue."""
    return int(re.findall(r"Restarts=(\d+)", tell("scontrol", "show", "job", job).stdout)[0])


ROWS = ("cancelled", "time_limit", "srun", "torchrun", "mistake", "array", "preempted", "again")


def main() -> int:
    """Run the rows that are asked for, print a table, and say whether all is as wanted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("asked", nargs="*", help="lightning, lerobot, rows")
    arguments = parser.parse_args()
    trainers = [name for name in MODELS if name in arguments.asked] or list(MODELS)
    rows = [name for name in ROWS if name in arguments.asked] or list(ROWS)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    data = make_dataset(arguments.folder / "data")
    print("| row | trainer | seen | |\n|---|---|---|---|", flush=True)
    bad = 0
    for trainer in trainers:
        run = Rows(trainer, arguments.folder / trainer, data)
        for name in rows:
            method = getattr(run, name)
            try:
                seen, mark = method(), "as wanted"
            except (Failed, subprocess.TimeoutExpired, OSError, KeyError, ValueError) as error:
                seen, mark = " ".join(str(error).split()), "**not as wanted**"
                bad += 1
            print(f"| {method.__doc__.splitlines()[0]} | {trainer} | {seen} | {mark} |", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
