"""Work shared by processes that end when their parent does, however it ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import islice

from hlrp.errors import WorkError


@contextmanager
def results[Job, Result](
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Iterator[Result]]:
    """What ``work`` makes of each job, in no order; on leaving, what is under way is stopped.

    Jobs are taken a few at a time: neither they nor their results pile up.

    Args:
        work: An importable function.
        jobs: Its arguments, which are pickled.
        workers: Processes; with 1 the work is done in this one.

    Raises:
        WorkError: By the iterator: a process died.
    """
    with closing(_here(work, jobs) if workers == 1 else _apart(work, jobs, workers)) as found:
        yield found


def _here[Job, Result](work: Callable[[Job], Result], jobs: Iterable[Job]) -> Generator[Result]:
    yield from map(work, jobs)


def _apart[Job, Result](work: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Generator[Result]:
    # Spawned, not forked: FFmpeg's and PyTorch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    jobs, under_way = iter(jobs), set[Future[Result]]()
    try:
        while True:
            under_way |= {pool.submit(work, job) for job in islice(jobs, 2 * workers - len(under_way))}
            if not under_way:
                break
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise WorkError(
            "a process died, for lack of memory perhaps\n  fix:   the same command continues; try fewer --workers"
        ) from error
    finally:
        if under_way:
            for process in multiprocessing.active_children():
                process.terminate()
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    # Ctrl-C reaches the whole process group; the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
