"""Processes that train one run: two threads that meet over a real store on loopback, as two processes do."""

import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hlrp.config import LeRobotRun, LightningRun, load_config
from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.ranks import Launch
from trainers.crew import Crew, placed

Work = Callable[[Crew], Any]


def _together(*works: Work) -> list[Any]:
    """What each process gives, or what it ends with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ends: list[Any] = [None] * len(works)

    def process(rank: int) -> None:
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        try:
            with Crew(Launch("torchrun", rank, len(works), 0, 1), environment) as crew:
                ends[rank] = works[rank](crew)
        except BaseException as end:
            ends[rank] = end

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return ends


def _raise(error: BaseException) -> Work:
    def work(_: Crew) -> None:
        raise error

    return work


def test_the_first_process_decides_for_all() -> None:
    asked: list[int] = []

    def work(crew: Crew) -> Any:
        return crew.agree("start", lambda: asked.append(crew.launch.rank) or {"path": "a"})  # type: ignore[func-returns-value]

    assert _together(work, work) == [{"path": "a"}, {"path": "a"}]
    assert asked == [0]


def test_a_refusal_of_the_first_ends_those_that_wait_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    def wait(crew: Crew) -> Any:
        return crew.agree("folder", lambda: None)

    refusal = UserError("the folder is there")
    first, second = _together(_raise(refusal), wait)
    assert first is refusal, "the command line says it"
    assert isinstance(second, SystemExit) and second.code == 2
    assert capsys.readouterr().err == ""


def test_one_that_fails_alone_says_so_and_all_fail(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = _together(lambda _: "done", _raise(WorkError("no disk on this node")))
    assert isinstance(first, SystemExit) and first.code == 1
    assert isinstance(second, WorkError) and capsys.readouterr().err == ""


def test_a_mistake_in_all_is_said_by_the_first_alone() -> None:
    first, second = _together(_raise(UserError("no such policy")), _raise(UserError("no such policy")))
    assert isinstance(first, UserError)
    assert isinstance(second, SystemExit) and second.code == 2


def test_a_signal_to_one_ends_all_with_its_code() -> None:
    first, second = _together(_raise(Interrupted("saved", 15)), lambda _: sys.exit(0))
    assert isinstance(first, Interrupted) and first.exit_code == 143
    assert isinstance(second, SystemExit) and second.code == 143


def _run(trainer: str, **section: int) -> LeRobotRun | LightningRun:
    values = {"trainer_type": trainer, "model.policy_type": "act", **{f"trainer.{k}": v for k, v in section.items()}}
    run = load_config(None, (), {key: (value, key) for key, value in values.items()}).config
    assert isinstance(run, LeRobotRun | LightningRun)
    return run


@pytest.mark.parametrize("trainer", ["lerobot", "lightning"])
def test_devices_and_nodes_mean_the_same_in_both_trainers(trainer: str) -> None:
    launch = Launch("srun", 5, 6, 1, 2)
    for asked in ({}, {"devices": 2}, {"num_nodes": 3}, {"devices": 2, "num_nodes": 3}):
        section = placed(_run(trainer, **asked), launch).trainer
        assert (section.devices, section.num_nodes, section.processes) == (2, 3, 6)
    with pytest.raises(UserError, match="num_nodes is 2, but srun started 3 nodes"):
        placed(_run(trainer, num_nodes=2), launch)
    with pytest.raises(UserError, match="devices is 4, but srun started 2 processes on each node"):
        placed(_run(trainer, devices=4), launch)
    # A run that goes on keeps the samples of a step.
    resumed = placed(_run(trainer, devices=3, batch_size=4), launch, resumed=True).trainer
    assert (resumed.devices, resumed.num_nodes, resumed.batch_size) == (2, 3, 2)
    with pytest.raises(UserError, match="the 5 samples of a step cannot be shared out among 6 processes"):
        placed(_run(trainer, batch_size=5), launch, resumed=True)
    assert placed(_run(trainer, devices=4), None).trainer.processes == 4
    with pytest.raises(UserError, match="2 nodes were asked for, but this process was started alone"):
        placed(_run(trainer, num_nodes=2), None)
    alone = placed(_run(trainer, num_nodes=2, batch_size=4), None, resumed=True).trainer
    assert (alone.num_nodes, alone.batch_size) == (1, 8)
