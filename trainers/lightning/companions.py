"""The other processes of a run on several devices, copies of its command, which the first one starts and ends."""

import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from hlrp.finite import NonFiniteError
from hlrp.processes import StoppedBySignal, signal_group, wait_for
from trainers.failures import explain_failure

_STARTED_BY = "HLRP_STARTED_BY"
_POLL_S = 0.2
# How long the first process may take to notice by itself that another one failed, and the others to end.
_GRACE_S = 10.0
# After an error in a step, until the failure of another process shows that it came from.
_SIGN_S = 1.0
_KILLED_S = 5.0


class Cause(NamedTuple):
    """Why a process that the first one started has failed.

    Args:
        reason: One sentence that names the process.
        trace: Its traceback; empty if it left none.
    """

    reason: str
    trace: str = ""


class Companions(_SubprocessScriptLauncher):
    """Lightning's launcher, after which a failed run says why, and no process is left.

    Lightning's own sends the first process a SIGKILL once another one has failed, and leaves the others to themselves
    when the first one fails.

    Args:
        launcher: Lightning's.
        lost: Called with the cause before this process is ended, because it waits for the failed one in vain.
    """

    # Of all fits of a program: Lightning starts the others once, and they run the whole program.
    _others: ClassVar[list["subprocess.Popen[bytes]"]] = []
    _words: ClassVar["tempfile.TemporaryDirectory[str] | None"] = None

    def __init__(self, launcher: _SubprocessScriptLauncher, lost: Callable[[Cause], None]) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self.cause: Cause | None = None
        """Set once the training has been left by an error that came from another process."""
        self._lost = lost
        self._left = threading.Event()

    @classmethod
    def installed(cls, trainer: Trainer, lost: Callable[[Cause], None]) -> "Companions | None":
        """Put it in the place of a trainer's launcher; None: the trainer has none, or one of another kind."""
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher):
            return None
        companions = cls(launcher, lost)
        trainer.strategy._launcher = companions
        return companions

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Start the others, unless that is done, and call ``function`` while they are watched."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._start()
        elif started_by := os.environ.get(_STARTED_BY):
            _end_after(int(started_by.partition(":")[0]))
        _set_num_threads_if_needed(num_processes=self.num_processes)
        with self._watched():
            return function(*args, **kwargs)

    def _start(self) -> None:
        cls = type(self)
        cls._words = tempfile.TemporaryDirectory(prefix="hlrp-processes-")
        os.environ[_STARTED_BY] = f"{os.getpid()}:{cls._words.name}"
        try:
            self._call_children_scripts()
        finally:
            del os.environ[_STARTED_BY]
        cls._others = self.procs

    @contextmanager
    def _watched(self) -> Iterator[None]:
        if not self._others:
            yield
            return
        threading.Thread(target=self._watch, daemon=True, name="hlrp-companions").start()
        try:
            yield
        except BaseException as error:
            self._left.set()
            if isinstance(error, StoppedBySignal | NonFiniteError):
                wait_for(self._others, _GRACE_S)  # which all processes come to in the same step
            elif not isinstance(error, KeyboardInterrupt):
                self.cause = self._sign()
                self._send(signal.SIGTERM)
                wait_for(self._others, _KILLED_S)
            self._send(signal.SIGKILL)
            wait_for(self._others, _KILLED_S)
            raise
        finally:
            self._left.set()

    def _watch(self) -> None:
        """End this process if it waits for one that has failed where nothing can be raised."""
        while not self._left.wait(_POLL_S):
            cause = self._failure()
            if cause is None:
                continue
            if not self._left.wait(_GRACE_S):
                self._send(signal.SIGKILL)
                self._lost(cause)
                if self._words is not None:
                    self._words.cleanup()
                os._exit(1)

    def _sign(self) -> Cause | None:
        end = time.monotonic() + _SIGN_S
        while (cause := self._failure()) is None and time.monotonic() < end:
            time.sleep(_POLL_S)
        return cause

    def _failure(self) -> Cause | None:
        """What failed first among the others: where one was killed, the errors of the rest come from that."""
        said: list[tuple[float, Cause]] = []
        for rank, process in enumerate(self._others, 1):
            code, name = process.poll(), f"process {rank} of {self.num_processes}"
            words = Path(self._words.name if self._words else "", str(rank))
            if words.is_file():
                reason, trace = json.loads(words.read_text(encoding="utf8"))
                said.append((words.stat().st_mtime, Cause(f"{name}: {reason}", trace)))
            elif code is not None and code < 0:
                return Cause(explain_failure("", "", code, process=name))
            elif code:
                said.append((time.time(), Cause(f"{name} ended with code {code}")))
        return min(said)[1] if said else None

    def _send(self, number: int) -> None:
        """To those that are alive; SIGKILL to all that they have started, too."""
        for process in self._others:
            process.send_signal(number)  # nothing, if it has ended
            if number == signal.SIGKILL:
                signal_group(process.pid, number)


def _end_after(first: int) -> None:
    """Have this process, with all that it starts, end soon after the one that has started it, however that went."""
    os.setpgrp()  # Ctrl-C is for the first process, which tells the others

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(1)
        time.sleep(_GRACE_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="hlrp-first-process").start()


def leave_words(rank: int, reason: str, trace: str) -> bool:
    """Tell the process that has started this one why it fails; False: a launcher has."""
    _, found, folder = os.environ.get(_STARTED_BY, "").partition(":")
    if not found:
        return False
    try:
        unfinished = Path(folder, f".{rank}")
        unfinished.write_text(json.dumps([reason, trace]), encoding="utf8")
        unfinished.rename(unfinished.with_name(str(rank)))
    except OSError as error:  # the first process has gone, or the disk is full
        logging.getLogger("hlrp.train").error("%s", error)
        return False
    return True
