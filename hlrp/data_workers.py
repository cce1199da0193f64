"""Processes that read batches ahead: what they do when a signal reaches them.

Ctrl-C, `timeout` and schedulers send their signal to every process of a run, but only the training process knows what
to do: it saves a checkpoint when its step is complete. PyTorch's workers would end at once, and with them that step.

Nothing heavy is imported: workers that are spawned import this module again.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class WorkerStart:
    """Start-up of a data worker: SIGINT and SIGHUP are for its parent, and it ends where that has gone meanwhile.

    Args:
        then: What else is to be done, called with the worker's number.
    """

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self._then = then

    def __call__(self, worker: int) -> None:
        """Begin, in the worker with this number."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:
            os._exit(1)  # PyTorch's watchdog only sees a parent go that was there when the worker began
        if self._then is not None:
            self._then(worker)


_WORKER_CONTEXTS: dict[type[BaseContext], BaseContext] = {}

# Only here a process learns who has sent it a signal; elsewhere a SIGTERM ends a worker, whoever sends it.
if sys.platform == "linux":
    from multiprocessing.context import ForkContext, ForkProcess, SpawnContext, SpawnProcess

    @contextmanager
    def _stop_signals_held() -> Iterator[None]:
        """Hold signals back in this thread, and in processes started meanwhile from their first instruction on."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _end_for(parent: int) -> None:
        """End this process at a SIGTERM from its parent, or, once that has gone, from anybody.

        The signal cannot just be ignored: by it a process that exits ends its workers, and then waits for them.
        """

        def wait() -> None:
            while True:
                sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
                if sender == parent or os.getppid() != parent:
                    os._exit(0)  # as PyTorch's own handler does

        threading.Thread(target=wait, name="signals", daemon=True).start()

    class _ForkedWorker(ForkProcess):
        def start(self) -> None:
            with _stop_signals_held():
                super().start()

        def run(self) -> None:
            _end_for(os.getppid())
            super().run()

    class _SpawnedWorker(SpawnProcess):
        def start(self) -> None:
            with _stop_signals_held():
                super().start()

        def __reduce__(self) -> tuple[Any, ...]:
            return _arrive, (os.getpid(),), self.__dict__

    def _arrive(parent: int) -> _SpawnedWorker:
        # Before the dataset is here and what it imports, for which an exit would wait.
        _end_for(parent)
        return _SpawnedWorker.__new__(_SpawnedWorker)

    class _Fork(ForkContext):
        Process = _ForkedWorker

    class _Spawn(SpawnContext):
        Process = _SpawnedWorker

    _WORKER_CONTEXTS |= {ForkContext: _Fork(), SpawnContext: _Spawn()}


def worker_context(method: str | BaseContext | None) -> BaseContext:
    """The context of a start method, or of None, the usual one, whose processes no signal ends before `WorkerStart`."""
    context: BaseContext = method if isinstance(method, BaseContext) else multiprocessing.get_context(method)
    return _WORKER_CONTEXTS.get(type(context), context)


def keep_reading(loader: "DataLoader[Any]") -> None:
    """Have a loader's workers, if it has any, go on at signals until their parent ends them; call it before they start.

    Args:
        loader: Changed in place, once.
    """
    if loader.num_workers > 0 and not isinstance(loader.worker_init_fn, WorkerStart):
        loader.worker_init_fn = WorkerStart(loader.worker_init_fn)
        loader.multiprocessing_context = worker_context(loader.multiprocessing_context)
