"""Work that processes do together on the CPU, forked from the test: nothing has to be imported again."""

import os
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch


def first_of_two[T](work: Callable[[int], T], meeting: Path) -> T:
    """Run ``work(rank)`` in this process and in a forked one, joined by gloo.

    Args:
        work: What each does; an error in either fails the test.
        meeting: A file that is not there yet.

    Returns:
        What the first one returns.
    """
    with warnings.catch_warnings():
        # Threads that PyTorch keeps are not needed by the child.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            _joined(work, 1, meeting)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    try:
        return _joined(work, 0, meeting)
    finally:
        assert os.waitpid(child, 0)[1] == 0, "the other process failed"


def _joined[T](work: Callable[[int], T], rank: int, meeting: Path) -> T:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        return work(rank)
    finally:
        torch.distributed.destroy_process_group()


def in_processes(count: int, work: Callable[[], object], *, check: bool = True) -> list[int]:
    """Run ``work`` in forked processes that Lightning takes for those of a launcher.

    Args:
        count: Processes.
        work: What each does.
        check: Whether an error in one fails the test.

    Returns:
        The exit code of each; of one that was killed the signal's number, negative.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not check or not any(codes), f"the processes ended with {codes}"
    return codes


def averaged(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of both processes' gradients, which is what their optimizers step by."""
    for gradient in gradients.values():
        torch.distributed.all_reduce(gradient)
        gradient.div_(torch.distributed.get_world_size())
    return gradients
