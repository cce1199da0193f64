"""Who may write a folder: one process at a time, on whichever node of a cluster it runs."""

import errno
import json
import os
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hlrp.errors import UserError
from hlrp.files import write_json
from hlrp.slurm import HAS_PROCESSES, job_state, own_start

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LOCK, _WRITER = ".lock", ".writer"
# How long what a killed writer left (its forked data workers, its training process) may take to end by itself.
_LEFTOVERS_S = 20.0
_RECORD_S = 1.0
_POLL_S = 0.1
# A writer on another node shows that it lives by the time of its record.
_SIGN_S, _SILENCE_S = 20.0, 90.0


def _born(pid: int) -> float | None:
    """When a process began, in seconds since the epoch; None: there is none. A zombie writes no more."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def file_lock(path: Path) -> "BaseFileLock":
    """A lock that the system drops with the process that holds it, however that ends.

    Where the file system knows no locks it is a lease: whoever holds it touches a file beside ``path``, and is followed
    by another one after 90 seconds of silence.

    Args:
        path: In a folder that is there.

    Raises:
        OSError: Nothing can be written there.
    """
    from filelock import FileLock, SoftFileLease

    if _knows_locks(path.parent):
        return FileLock(path, thread_local=False)  # another thread may end what this one began
    beside = path.with_name(f"{path.name}.lease")
    return SoftFileLease(beside, lease_duration=_SILENCE_S, heartbeat_interval=_SIGN_S, thread_local=False)


def _knows_locks(folder: Path) -> bool:
    if os.name == "nt":
        return True
    import fcntl

    with tempfile.NamedTemporaryFile(dir=folder, prefix=_LOCK) as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                return False
            raise
    return True


class LockedError(UserError):
    """Another process writes this folder."""


@dataclass(frozen=True)
class _Writer:
    """Who holds a lock.

    Args:
        host: Where.
        since: Local time there, as text.
        processes: Those that write, each with the time it began at.
        job: Slurm's number of the job and how often it had been requeued, `123+0`; None: it runs in none.
    """

    host: str
    since: str
    processes: tuple[tuple[int, float | None], ...]
    job: str | None = None

    @classmethod
    def read(cls, path: Path) -> "_Writer | None":
        try:
            said = json.loads(path.read_text(encoding="utf8"))
            processes = tuple((int(pid), born and float(born)) for pid, born in said["processes"])
            job = said.get("job")
            return cls(str(said["host"]), str(said["since"]), processes, job and str(job)) if processes else None
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

    def lives_elsewhere(self, record: Path) -> bool:
        """Whether one on another node still writes, as Slurm knows, or else its record, touched again and again."""
        if self.here:
            return False
        if self.job is not None:
            number, _, starts = self.job.partition("+")
            ours, _, our_starts = (own_start() or "").partition("+")
            if number == ours and starts != our_starts:
                return False  # this very job, before it was put back into the queue
            state = job_state(number)
            if state == "SUSPENDED":
                return True  # and touches nothing
            if state is not None and state not in HAS_PROCESSES:
                return False
        return _silence(record) < _SILENCE_S

    def busy(self, folder: Path) -> "LockedError":
        """The refusal of another process."""
        return LockedError(
            f"another process is writing this folder: process {self.processes[0][0]} on {self.host}, "
            + (f"job {self.job.partition('+')[0]}, " if self.job else "")
            + f"since {self.since}",
            where=str(folder),
            fix="wait until it has ended, or stop it",
        )


class FolderLock:
    """The right to write a folder, which one process has at a time; a context.

    The system drops the lock with the process that holds it, however that ends. Who holds it stands beside it in the
    folder: file systems that nodes share need not pass locks on, so a record of another node counts while its job runs
    and its writer touches it. Where they know no locks the record alone counts, on this node too. On leaving, both
    files are removed, and so is the folder if it was made here and nothing was put into it.

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
        self._left = threading.Event()

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            LockedError: Another process has it; its number and host are named.
            UserError: Nothing can be written there.
            FileExistsError: The folder was to be made, and is there or is a file.
        """
        for _ in range(100):
            try:
                self._make_folder()
                self._lock = file_lock(self._lock_file)
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
        self._left.set()
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
        write_json(self._record, self._said())

    def _said(self) -> dict[str, Any]:
        said = {"host": os.uname().nodename, "since": time.strftime("%Y-%m-%d %H:%M:%S"), "job": own_start()}
        return {**said, "processes": self._processes}

    def _claim(self, dead: _Writer | None) -> bool:
        """Write the record, in place of a dead writer's; False: another node was faster."""
        mine = self._record.with_name(f"{self._record.name}.{uuid.uuid4().hex}")
        if self._record.exists():
            if _Writer.read(self._record) != dead:
                return False
            # One of several that move the dead one's record away succeeds, even on a file system without locks.
            self._record.rename(mine)
            moved = _Writer.read(mine)
            if moved is not None and moved != dead:
                self._show(mine)  # that of the faster one, who writes already
                return False
            mine.unlink()
        self._processes = [(os.getpid(), _born(os.getpid()))]
        write_json(mine, self._said())
        if not self._show(mine):
            return False
        threading.Thread(target=self._give_signs, daemon=True, name="hlrp-lock").start()
        return True

    def _show(self, record: Path) -> bool:
        """Give a record its name; False: there is one already, and this one is removed."""
        try:
            os.link(record, self._record)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            record.rename(self._record)
        finally:
            record.unlink(missing_ok=True)
        return True

    def _give_signs(self) -> None:
        while not self._left.wait(_SIGN_S):
            with suppress(OSError):
                os.utime(self._record)

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
        from filelock import SoftFileLease, Timeout

        # Held while the record is written, and no longer: after a kill it would keep everybody out for a while.
        leased = isinstance(self._lock, SoftFileLease)
        end = time.monotonic() + _LEFTOVERS_S
        while True:
            with suppress(Timeout):
                self._lock.acquire(blocking=False)
            taken = self._lock.is_locked
            writer = _Writer.read(self._record)
            others = writer.living() if writer else []
            living = [pid for pid in others if pid != os.getpid() or leased or not taken]
            held = False
            try:
                if writer is not None and writer.lives_elsewhere(self._record):
                    raise writer.busy(self.folder)
                if taken and not living:
                    if self._fresh and not is_unwritten(self.folder):
                        raise FileExistsError(self.folder)
                    held = self._claim(writer)
                    if held:
                        return
            finally:
                if leased or not held:
                    self._lock.release()
            writer = _Writer.read(self._record)  # who was faster has said so meanwhile
            if writer is None:
                end = min(end, time.monotonic() + _RECORD_S)  # it is about to say who it is
            elif writer.processes[0][0] in living or writer.lives_elsewhere(self._record):
                raise writer.busy(self.folder)
            if time.monotonic() >= end:
                raise (writer or _Writer("an unknown host", "an unknown time", ((0, None),))).busy(self.folder)
            time.sleep(_POLL_S)


def _silence(record: Path) -> float:
    """Seconds since a file was touched, by the clock of its file system."""
    try:
        with tempfile.NamedTemporaryFile(dir=record.parent, prefix=_LOCK) as probe:
            return os.fstat(probe.fileno()).st_mtime - record.stat().st_mtime
    except FileNotFoundError:
        return _SILENCE_S


def is_unwritten(folder: Path) -> bool:
    """Whether a folder holds nothing but a claim to it: one that is held, or one that a kill has left."""
    names = [path.name for path in folder.iterdir()]
    # `..writer`: of a record whose writing was killed.
    return bool(names) and all(name.startswith((_LOCK, _WRITER, f".{_WRITER}")) for name in names)
