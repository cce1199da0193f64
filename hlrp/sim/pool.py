"""Processes that let experts act. They end when their parent does, however it ends."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hlrp.errors import WorkError
from hlrp.processes import child_environment
from hlrp.sim.interface import Recording
from hlrp.sim.rendering import configure_gl
from hlrp.sim.staging import Staging


@dataclass(frozen=True)
class Job:
    """Attempt ``number`` of ``task``, from ``reset_seed``."""

    task: str
    number: int
    reset_seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a job; ``error`` holds a traceback, or an `OSError` that the user can act on."""

    job: Job
    success: bool
    frames: int = 0
    error: str | OSError | None = None


class ExpertPool:
    """Workers that take one job each and store its outcome in the staging folder.

    Args:
        workers: Number of processes.
        staging: Folder of the `Staging`.
        recording: The simulator.
        switches: Arguments of its environment besides the task.
        noise: As in `hlrp.sim.experts.attempt`.
    """

    def __init__(
        self, workers: int, staging: Path, recording: Recording, switches: dict[str, Any], noise: float
    ) -> None:
        context = _context(recording.module)
        self._processes: dict[Connection, Any] = {}
        self._busy: dict[Connection, Job] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, staging, recording, switches, noise), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self.close(at_once=kind is not None)

    @property
    def has_idle(self) -> bool:
        """Whether a worker waits for a job."""
        return len(self._busy) < len(self._processes)

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker (`RuntimeError` if none is)."""
        idle = [connection for connection in self._processes if connection not in self._busy]
        if not idle:
            raise RuntimeError("every worker is busy")
        self._busy[idle[0]] = job
        idle[0].send(job)

    def collect(self) -> list[Outcome]:
        """Wait until at least one job is finished and return what is.

        Raises:
            WorkError: A worker died or met an error.
            OSError: A worker could not write.
        """
        outcomes = []
        for connection in wait(list(self._busy)):
            assert isinstance(connection, Connection)
            job = self._busy.pop(connection)
            try:
                outcome: Outcome = connection.recv()
            except (EOFError, OSError) as error:
                process = self._processes[connection]
                process.join(timeout=5)
                what = f"a recording process died (exit code {process.exitcode}) at {job.task}, seed {job.reset_seed}"
                raise WorkError(f"{what}; finished episodes are kept, the same command continues") from error
            if isinstance(outcome.error, OSError):
                raise outcome.error
            if outcome.error:
                raise WorkError(f"recording {job.task}, seed {job.reset_seed}, failed:\n{outcome.error}")
            outcomes.append(outcome)
        return outcomes

    def close(self, *, at_once: bool = False) -> None:
        """End the workers: idle ones leave by themselves, ``at_once`` does not wait for a job under way."""
        for connection, process in self._processes.items():
            if at_once:
                process.terminate()
            connection.close()
        for process in self._processes.values():
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes.clear()
        self._busy.clear()


def run_apart(target: Callable[..., None], args: tuple[Any, ...], log: Path, on_message: Callable[[Any], None]) -> None:
    """Call ``target(send, *args)`` in a process whose output goes to ``log``; what it sends reaches ``on_message``.

    Args:
        target: Importable function.
        args: Its arguments, which are pickled.
        log: File that is appended to.
        on_message: Called here with each object that ``target`` sends.

    Raises:
        WorkError: The process raised or died.
        OSError: The process could not write.
    """
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, target, args, log), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            message = ours.recv()
            if isinstance(message, _Failure):
                if isinstance(message.error, OSError):
                    raise message.error
                raise WorkError(f"{message.error}\n  log: {log}")
            if message is None:
                break
            on_message(message)
    except EOFError as error:
        process.join(timeout=5)
        raise WorkError(f"a process died (exit code {process.exitcode}); its log: {log}") from error
    finally:
        ours.close()
        process.join(timeout=0.5)
        if process.is_alive():
            process.kill()
        process.join()


@dataclass(frozen=True)
class _Failure:
    error: str | OSError


def _call(connection: Connection, target: Callable[..., None], args: tuple[Any, ...], log: Path) -> None:
    _become_worker(log)
    try:
        target(connection.send, *args)
        connection.send(None)
    except OSError as error:
        connection.send(_Failure(error))
    except Exception as error:
        traceback.print_exc()
        connection.send(_Failure(f"{type(error).__name__}: {error}"))


def _context(*heavy: str) -> Any:
    """How processes start: from a fork server where there is one.

    It imports ``heavy`` modules once for all of them (ten seconds each otherwise) and, unlike a fork of this process,
    never copies threads or OpenGL contexts.
    """
    configure_gl()
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(heavy))
    # The server and its children inherit blocked signals: Ctrl-C and a closed terminal reach the whole process group,
    # also in the seconds of its imports, and it is this process that decides what ends. They stay blocked here for that
    # long, so that none is lost. The resource tracker unblocks SIGINT when it starts, so it has to run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        with _errors_unseen(), _environment(child_environment()):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for what is started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _errors_unseen() -> Iterator[None]:
    """Give what starts here no terminal: the server prints a traceback when its parent leaves in mid-request.

    Workers write to the log of the recording as soon as they begin.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _become_worker(log: Path) -> None:
    """Leave Ctrl-C and a closed terminal to the parent, end with it, and write to the log instead of the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _end_with_parent() -> None:
    """Exit when the parent does, also in the middle of a job: a killed recording leaves no process behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(
    connection: Connection, staging_root: Path, recording: Recording, switches: dict[str, Any], noise: float
) -> None:
    staging, env = Staging(staging_root), None
    _become_worker(staging.log)
    from hlrp.sim.experts import attempt

    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            break
        try:
            if env is None or env.task != job.task:
                if env is not None:
                    env.close()
                env = recording.make_env(job.task, **switches)
            demonstration = attempt(env, job.reset_seed, noise)
            staging.save(job.task, job.number, demonstration)
            frames = 0 if demonstration is None else len(demonstration.action)
            outcome = Outcome(job, demonstration is not None, frames)
        except OSError as error:
            outcome = Outcome(job, False, error=error)
        except Exception:
            outcome = Outcome(job, False, error=traceback.format_exc())
        connection.send(outcome)
    if env is not None:
        env.close()
