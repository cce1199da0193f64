"""The processes that torchrun or srun started to train one run: the first one decides, and all end alike."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from hlrp.config import LeRobotRun, LightningRun, OtherRun
from hlrp.errors import HlrpError, UserError, WorkError
from hlrp.processes import SignalError, signal_group
from hlrp.ranks import Launch

if TYPE_CHECKING:
    from torch.distributed import Store

_POLL_S = 0.2
_JOIN_S = 300.0
# How long a process may take to end by itself after another one failed: the first one has a manifest to write.
_GRACE_S, _GRACE_FIRST_S = 10.0, 30.0
# How long those that have ended well wait for the others, which at most have to tidy up.
_LAST_WORDS_S = 60.0


class Crew:
    """What the processes of one run tell each other beside their training; a context around all of it.

    They meet at the store of torchrun, or under srun at one that the first process holds, which training then uses too.
    On leaving, a process waits for the others: the exit code of the one that failed first becomes that of all.

    Args:
        launch: The place of this process.
        environment: Of this process; the variables that torchrun would have set are set in it.
    """

    current: "ClassVar[Crew | None]" = None
    """The processes that this one trains with, if a launcher started them."""

    def __init__(self, launch: Launch, environment: MutableMapping[str, str] = os.environ) -> None:
        self.launch = launch
        self.last_words: Callable[[str], object] = lambda _: None
        """Called with a sentence before this process is ended because another one failed while it could not."""
        self.groups: list[int] = []
        """Process groups that are killed then too."""
        self._environment = environment
        self._store: Store
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        """Join the others.

        Raises:
            WorkError: They do not come.
        """
        from torch.distributed import PrefixStore, rendezvous

        self._environment.update(self.launch.environment(self._environment))
        place = ":".join(self._environment.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        try:
            ranks = (self.launch.rank, self.launch.world)
            store, *_ = next(rendezvous(f"tcp://{place}", *ranks, timeout=timedelta(seconds=_JOIN_S)))
        except Exception as error:
            raise WorkError(
                f"process {self.launch.rank} of {self.launch.world} does not reach the others at {place}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        # Children, and Lightning in this process, are guests of the store that is there.
        self._environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        attempt = self._environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"hlrp/{attempt}", store)
        threading.Thread(target=self._watch, daemon=True, name="hlrp-crew-watch").start()
        Crew.current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Crew.current = None
        self._ended.set()
        code, said = _outcome(error)
        agreed, heard = code, not self.first
        with suppress(Exception):  # the store has gone with the process that held it
            agreed, heard = self._leave(code, said)
        if agreed == code and (error is None or not heard):
            return
        if said and not heard:
            sys.stderr.write(f"{said}\n")
        raise SystemExit(agreed) from None

    @property
    def first(self) -> bool:
        """Whether this is the process that owns the run's folder."""
        return self.launch.rank == 0

    def agree(self, name: str, decide: Callable[[], Any]) -> Any:
        """What the first process decides, in all of them.

        Args:
            name: What it is about; used once.
            decide: Gives a value of JSON; called in the first process alone.

        Raises:
            SystemExit: The first process ended before it had decided.
        """
        if self.first:
            value = decide()
            self._store.set(name, json.dumps(value))
            return value
        try:
            while not self._store.check([name]):
                # Once more: it may have decided, and ended, since the line above.
                if self._store.check(["end/0"]) and not self._store.check([name]):
                    raise SystemExit(self._end_of(0)[0] or 1)
                time.sleep(_POLL_S)
            return json.loads(self._store.get(name))
        except RuntimeError as error:  # of torch: the connection was lost
            raise WorkError("the first process of the run has gone") from error

    def _end_of(self, rank: int) -> tuple[int, str]:
        code, said = json.loads(self._store.get(f"end/{rank}"))
        return code, said

    def _leave(self, code: int, said: str) -> tuple[int, bool]:
        """Say how this process ended, and wait for the others.

        Returns:
            The exit code of all, and whether what this one has to say is of no use beside what others say.
        """
        mine, store = f"{self.launch.rank} {code}", self._store
        if code:  # first: who sees the end of this one is to see the cause too
            store.compare_set("cause", "", mine)
        store.set(f"end/{self.launch.rank}", json.dumps([code, said]))
        others = [f"end/{rank}" for rank in range(self.launch.world) if rank != self.launch.rank]
        end = time.monotonic() + _LAST_WORDS_S
        # A first process that finished may be publishing the run: it is waited for as long as it lives.
        while not store.check(others) and (time.monotonic() < end or not (self.first or code)):
            time.sleep(_POLL_S)
        cause = store.get("cause").decode() if store.check(["cause"]) else f"0 {code}"
        said_by_first = store.check(["end/0"]) and self._end_of(0)[1] == said
        store.add("left", 1)
        # The store may go with the first process: the others are to have read what is in it.
        while self.first and store.add("left", 0) < self.launch.world and time.monotonic() < end:
            time.sleep(_POLL_S)
        return int(cause.split()[1]), not self.first and (cause != mine or said_by_first or not said)

    def _watch(self) -> None:
        """End this process if another one has failed and this one waits for it where nothing can be raised."""
        cause: int | None = None
        with suppress(Exception):
            while not self._ended.wait(1.0):
                if self._store.check(["cause"]):
                    cause = int(self._store.get("cause").decode().split()[1])
                    break
        if cause is None or self._ended.wait(_GRACE_FIRST_S if self.first else _GRACE_S):
            return
        for group in self.groups:
            signal_group(group, signal.SIGKILL)
        reason = f"another process of the run ended with code {cause}"
        self.last_words(reason)
        with suppress(Exception):
            self._store.set(f"end/{self.launch.rank}", json.dumps([cause, reason]))
        os._exit(cause)


def _outcome(error: BaseException | None) -> tuple[int, str]:
    """Exit code of what a command ends with, and what there is to say of it."""
    if error is None:
        return 0, ""
    if isinstance(error, HlrpError):
        return error.exit_code, str(error)
    if isinstance(error, SignalError):
        return 128 + error.number, ""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None), ""
    return (130, "") if isinstance(error, KeyboardInterrupt) else (1, f"{type(error).__name__}: {error}")


def placed[Run: LeRobotRun | LightningRun | OtherRun](run: Run, launch: Launch | None, *, resumed: bool = False) -> Run:
    """The run with the numbers of nodes and of processes on each that its launcher started.

    Args:
        run: Whose `trainer.devices` and `trainer.num_nodes`, where they are not 1, are what was asked for.
        launch: The place of this process; None: it was started alone, and starts the others of its node itself.
        resumed: Whether the numbers are those of the run's last start, which bind nobody; the samples of a step, which
            stay as many, are shared out anew.

    Raises:
        UserError: Another number was asked for than was started, or they cannot share out the samples evenly.
    """
    section = run.trainer
    if launch is None:
        if section.num_nodes > 1 and not resumed:
            raise UserError(
                f"{section.num_nodes} nodes were asked for, but this process was started alone",
                where="--nodes / trainer.num_nodes",
                fix=f"start it once per GPU: srun --nodes={section.num_nodes} --ntasks-per-node={section.devices} "
                "hlrp train ..., or torchrun, or --launcher slurm",
            )
        return run if section.num_nodes == 1 else _shared_out(run, section.devices, 1)
    there = {"devices": launch.local_world, "num_nodes": launch.nodes}
    for name, started in there.items():
        asked = getattr(section, name)
        if asked not in (1, started) and not resumed:
            what = "processes on each node" if name == "devices" else "nodes"
            raise UserError(
                f"trainer.{name} is {asked}, but {launch.by} started {started} {what}",
                where=f"--{name.removeprefix('num_')} / trainer.{name}",
                fix="leave it out: it is read from the launcher; or start as many",
            )
    if resumed:
        return _shared_out(run, **there)
    return cast("Run", run.model_copy(update={"trainer": section.model_copy(update=there)}))


def _shared_out[Run: LeRobotRun | LightningRun | OtherRun](run: Run, devices: int, num_nodes: int) -> Run:
    try:
        section = run.trainer.on_devices(devices, num_nodes)
    except ValueError as error:
        raise UserError(str(error), where="--resume", fix="start a number of processes that divides them") from error
    return cast("Run", run.model_copy(update={"trainer": section}))
