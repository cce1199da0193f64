"""Trainings over two nodes, which are two processes here with what torchrun would tell each; gloo on the CPU."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest
from command import hlrp
from interruptions import start, wait_for_rows
from lerobot_runs import TINY_ACT

from hlrp.runs import RunDirectory

MODELS = {
    "lightning": ["--model", "laq", "model.preset=tiny", "model.image_size=24"],
    "lerobot": ["--policy", "act", *TINY_ACT],
}


def _args(trainer: str, root: Path, run: Path, steps: int, *more: str) -> list[str]:
    sizes = ["--batch-size", "2", "--device", "cpu", "data.num_workers=0", "trainer.log_freq=1"]
    place = ["--dataset-root", str(root), "--output-dir", str(run), "--steps", str(steps)]
    return ["train", "--trainer", trainer, *MODELS[trainer], *sizes, *place, *more]


def _nodes(args: list[str], world: int = 2) -> list["subprocess.Popen[str]"]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    here = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return [start(args, shared | here | {"RANK": str(rank), "GROUP_RANK": str(rank)}) for rank in range(world)]


def _losses(run: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in RunDirectory.open(run).metrics() if "loss" in row}


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["lightning", "lerobot"])
def test_two_nodes_give_the_losses_of_two_processes_on_one(trainer: str, toy_root: Path, tmp_path: Path) -> None:
    """Stopped by a signal to the second one alone, and resumed: exit codes alike, losses to the last digit."""
    run, one = tmp_path / "two", tmp_path / "one"
    nodes = _nodes(_args(trainer, toy_root, run, 12))
    wait_for_rows(run, 4, nodes[0])
    nodes[1].send_signal(signal.SIGTERM)
    said = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [143, 143], said
    manifest = RunDirectory.open(run).manifest
    assert (manifest.status, manifest.processes) == ("interrupted", 2)
    assert said[1][1].count("error") == 0
    nodes = _nodes(["train", "--resume", str(run)])
    said = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "checkpoint" in said[0][0] and said[1][0] == ""
    done = hlrp(*_args(trainer, toy_root, one, 12, "--devices", "2"), env={"OMP_NUM_THREADS": "1"})
    assert done.code == 0, done.err
    assert _losses(run) == _losses(one) and sorted(_losses(run)) == list(range(1, 13))


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["lightning", "lerobot"])
def test_two_nodes_refuse_a_folder_with_one_message(trainer: str, toy_root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    nodes = _nodes(_args(trainer, toy_root, tmp_path / "run", 2))
    said = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [2, 2], said
    assert "the output folder exists already" in said[0][1] and said[1][1] == ""
