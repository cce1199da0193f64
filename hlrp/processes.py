"""Signals that stop a run, locks of folders, ranks of a launcher, and the environment of child processes.

Signals that stop a run (SIGINT, SIGTERM, SIGHUP) become a wish, which is granted when a step is complete.
"""

import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

from hlrp.errors import Interrupted, UserError
from hlrp.files import write_json

Handler = Callable[[int, FrameType | None], None]

_LOCK, _WRITER = ".lock", ".writer"
# How long what a killed writer left (its forked data workers, its training process) may take to end by itself.
_LEFTOVERS_S = 20.0
_RECORD_S = 1.0
_POLL_S = 0.1


def child_environment() -> dict[str, str]:
    """Variables for every Python process that is started from here, so that it finds this project's modules.

    `python -m` and `-c` look into the current folder first, whatever lies there: a `trainers/` of the user's own, say.
    The folder this project lies in is named instead, unless it is the interpreter's own.
    """
    import sysconfig

    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in (*paths, *(str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib"))):
        paths.append(root)
    return {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first of the processes that a launcher started, in the words of torchrun, Slurm or LSF."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    rank = next((environment[name] for name in names if environment.get(name)), "0")
    return not rank.isdecimal() or int(rank) == 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores(environment: Mapping[str, str] = os.environ) -> int:
    """The share of `cores` of one process: torchrun starts several processes on a machine and gives all of them all."""
    beside = environment.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores() // max(1, int(beside))) if beside.isdecimal() else cores()


class Ranks(NamedTuple):
    """Which process of how many this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Ranks":
        """As torchrun or Slurm's srun say; a single process otherwise.

        Raises:
            UserError: What they say makes no sense.
        """
        for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if rank in environment and world in environment:
                try:
                    ranks = cls(int(environment[rank]), int(environment[world]))
                except ValueError:
                    ranks = cls(-1, 0)
                if not 0 <= ranks.rank < ranks.world:
                    raise UserError(
                        f"{rank}={environment[rank]} and {world}={environment[world]} are no rank and number of ranks",
                        where="environment",
                        fix="start it through torchrun or srun, or unset both",
                    )
                return ranks
        return cls()

    def share(self, count: int) -> range:
        """Which of ``count`` pieces are this process's: neighbours, so that videos are read in order."""
        return range(self.rank * count // self.world, (self.rank + 1) * count // self.world)


def stop_signals() -> tuple[int, ...]:
    """SIGINT, SIGTERM and SIGHUP (a closed terminal), which is left out where `nohup` has it ignored."""
    hangup = getattr(signal, "SIGHUP", None)
    heeded = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((hangup,) if heeded and hangup is not None else ()))


@contextmanager
def signal_handlers(handler: Handler, numbers: tuple[int, ...] | None = None) -> Iterator[None]:
    """Have ``handler`` called for ``numbers`` (`stop_signals` by default); outside the main thread nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread alone; a notebook's worker thread works without them.
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers or stop_signals()}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None: a handler that was not installed from Python.
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


def leave_closed_terminal() -> None:
    """Send what is still printed nowhere if the terminal has gone: writing to it would be an error."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


class StopRequests:
    """Context that takes the signals over that stop a run; outside the main thread it does nothing.

    Before training starts a signal ends the command at once, since there is nothing to save. After that the first one
    is remembered, and a second Ctrl-C no longer waits for the step to end.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.training = False
        self._taken = ExitStack()
        self._numbers: tuple[int, ...] = ()

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._numbers = stop_signals()
            self._taken.enter_context(signal_handlers(self._on_signal, self._numbers))
        return self

    def install(self) -> None:
        """Set the handlers again: Lightning puts its own in front of them, which talk to other processes."""
        for number in self._numbers:
            signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        self._taken.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        leave_closed_terminal()
        if not self.training:
            raise Interrupted("interrupted before training began; there is nothing to save", number)
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


class SignalError(BaseException):
    """Raised where a signal arrives, so that what is open is closed; not an `Exception`, which libraries swallow."""

    def __init__(self, number: int) -> None:
        self.number = number


class StoppedBySignal(Exception):  # noqa: N818 - a stop in order is no error
    """Leaves a training loop after the checkpoint of an interrupted run was saved."""


def _born(pid: int) -> float | None:
    """When a process began, in seconds since the epoch; None: there is none. A zombie writes no more."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


class LockedError(UserError):
    """Another process writes this folder."""


@dataclass(frozen=True)
class _Writer:
    """Who holds a lock: a host, and the processes there that write, each with the time it began at."""

    host: str
    since: str
    processes: tuple[tuple[int, float | None], ...]

    @classmethod
    def read(cls, path: Path) -> "_Writer | None":
        try:
            said = json.loads(path.read_text(encoding="utf8"))
            processes = tuple((int(pid), born and float(born)) for pid, born in said["processes"])
            return cls(str(said["host"]), str(said["since"]), processes) if processes else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    @property
    def here(self) -> bool:
        return self.host == os.uname().nodename

    def living(self) -> list[int]:
        """Those alive on this host; a number that was given to another process since is none of them."""
        # The time is reckoned from that of boot, which moves a little whenever the clock is set.
        ages = [(pid, born, _born(pid)) for pid, born in self.processes] if self.here else []
        return [pid for pid, then, now in ages if then is not None and now is not None and abs(then - now) < 2]

    def busy(self, folder: Path) -> "LockedError":
        """The refusal of another process."""
        return LockedError(
            f"another process is writing this folder: process {self.processes[0][0]} on {self.host}, "
            f"since {self.since}",
            where=str(folder),
            fix="wait until it has ended, or stop it",
        )


class FolderLock:
    """The right to write a folder, which one process has at a time; a context.

    The system drops the lock with the process that holds it, however that ends. Who holds it stands beside it in the
    folder. On leaving, both files are removed, and so is the folder if it was made here and nothing was put into it.

    Args:
        folder: Made, with its parents, if it is not there.
        fresh: Refuse a folder that is there already, but for the claim of a process that was killed before it wrote.
        part: What is written, where several processes may write different parts of one folder.
    """

    def __init__(self, folder: Path, *, fresh: bool = False, part: str = "") -> None:
        self.folder, self._fresh = folder.absolute(), fresh
        self._lock_file = self.folder / f"{_LOCK}{part}"
        self._record = self.folder / f"{_WRITER}{part}.json"
        self.files = (self._lock_file, self._record)
        self._made: list[Path] = []
        self._lock: Any = None
        self._processes: list[tuple[int, float | None]] = []

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            LockedError: Another process has it; its number and host are named.
            UserError: Nothing can be written there.
            FileExistsError: The folder was to be made, and is there or is a file.
        """
        from filelock import FileLock

        for _ in range(100):
            try:
                self._make_folder()
                # Another thread may end what this one began.
                self._lock = FileLock(self._lock_file, thread_local=False)
                self._take()
            except FileNotFoundError:
                continue  # another process gave up its claim and took the folder away between two steps
            except FileExistsError:
                raise
            except OSError as error:
                raise UserError(
                    f"cannot write there: {error.strerror or error}",
                    where=str(self.folder),
                    fix="choose another output folder, or free space and rights",
                ) from error
            return self
        raise UserError("the folder disappears as soon as it is made", where=str(self.folder), fix="try again")

    def __exit__(self, *_: object) -> None:
        writer = _Writer.read(self._record)
        if writer is not None and writer.here and writer.processes[0][0] == os.getpid():
            with suppress(OSError):
                self._record.unlink()
                self._lock_file.unlink()
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()
        self._lock.release()

    def add_process(self, pid: int) -> None:
        """Name a child that writes the folder too, and may do so a little longer than this process."""
        self._processes.append((pid, _born(pid)))
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        write_json(self._record, {"host": os.uname().nodename, "since": since, "processes": self._processes})

    def _make_folder(self) -> None:
        path, missing = self.folder, []
        while not path.exists():
            missing.append(path)
            path = path.parent
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.folder.mkdir()
            self._made = missing
        except FileExistsError:
            if not self.folder.is_dir():
                raise
            if self._fresh and not is_unwritten(self.folder):
                if (writer := _Writer.read(self._record)) and writer.living():
                    raise writer.busy(self.folder) from None
                raise

    def _take(self) -> None:
        """Lock, once nothing that a dead writer left (its data workers, its training process) writes any more."""
        from filelock import Timeout

        end = time.monotonic() + _LEFTOVERS_S
        while True:
            with suppress(Timeout):
                self._lock.acquire(blocking=False)
            taken = self._lock.is_locked
            writer = _Writer.read(self._record)
            living = [pid for pid in writer.living() if pid != os.getpid() or not taken] if writer else []
            if taken and not living:
                break
            if taken:
                self._lock.release()
            if writer is None:
                end = min(end, time.monotonic() + _RECORD_S)  # it is about to say who it is
            elif not writer.here or writer.processes[0][0] in living:
                raise writer.busy(self.folder)
            if time.monotonic() >= end:
                raise (writer or _Writer("an unknown host", "an unknown time", ((0, None),))).busy(self.folder)
            time.sleep(_POLL_S)
        try:
            if self._fresh and not is_unwritten(self.folder):
                raise FileExistsError(self.folder)
            self.add_process(os.getpid())
        except BaseException:
            self._lock.release()
            raise


def is_unwritten(folder: Path) -> bool:
    """Whether a folder holds nothing but a claim to it: one that is held, or one that a kill has left."""
    names = [path.name for path in folder.iterdir()]
    # `..writer`: of a record whose writing was killed.
    return bool(names) and all(name.startswith((_LOCK, _WRITER, f".{_WRITER}")) for name in names)
