"""A sweep: one configuration at several values and seeds, each a `hlrp train --resume auto` of its own folder."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from hlrp.config.base import parse_episodes
from hlrp.config.yaml_source import parse_value
from hlrp.devices import visible_gpus
from hlrp.errors import Interrupted, UserError
from hlrp.processes import child_environment, signal_handlers

SEED = "trainer.seed"
_MOST_RUNS = 10_000
_NOT_IN_NAMES = re.compile(r"[^\w.=,+-]+")


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Args:
        path: Its folder.
        config: The configuration's file or name, if there is one.
        overrides: Arguments `key=value` of this run.
        allowed: Packages whose classes may be named.
        gpus: How many GPUs it takes where there are any; 0: none, or the one that it names.
    """

    path: Path
    config: str | None
    overrides: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    gpus: int = 0

    @property
    def arguments(self) -> list[str]:
        """Of the command `hlrp`; given any number of times, they begin the run, go on with it, or find it done."""
        config = [] if self.config is None else ["--config", self.config]
        allowed = [part for prefix in self.allowed for part in ("--allow-import", prefix)]
        return ["train", *config, *self.overrides, *allowed, "--output-dir", str(self.path), "--resume", "auto"]

    def shown(self) -> str:
        """The command as a person would type it."""
        return shlex.join(["hlrp", *self.arguments])


def expand(
    config: str | None, overrides: Sequence[str], seeds: str | None, folder: Path, *, allowed: Sequence[str] = ()
) -> list[SweptRun]:
    """Every combination of the values, in the order in which they are given; seeds change fastest.

    Args:
        config: File or name.
        overrides: Arguments `key=value` or `key=a,b,c`; commas in brackets or quotes divide nothing.
        seeds: Such as `0-4,7`; None: the configuration's own.
        folder: Of the sweep; each run has one below it, named by what is its own.
        allowed: Packages whose classes may be named.

    Raises:
        UserError: Nothing is swept, a value comes twice, or there are too many runs.
    """
    axes: list[tuple[str, list[str]]] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if key == "output_dir":
            raise UserError("each run has a folder of its own", where="output_dir", fix="use --output-dir for them all")
        axes.append((key, divided(value) if equals else []))
    if seeds is not None:
        if any(key == SEED for key, _ in axes):
            raise UserError(f"{SEED} is given too", where="--seeds", fix="keep --seeds alone")
        try:
            axes.append((SEED, [str(seed) for seed in parse_episodes(seeds)]))
        except ValueError as error:
            raise UserError(str(error), where="--seeds", fix="write 0-4, or 0,1,2") from error
    swept = {key for key, values in axes if len(values) > 1} | ({SEED} if seeds is not None else set())
    count = 1
    for key, values in axes:
        count *= max(1, len(values))
        _refuse_repeated(key, values)
    if not swept or count > _MOST_RUNS:
        what = "nothing is swept" if not swept else f"these are {count} runs"
        raise UserError(what, where="key=a,b,c / --seeds", fix="give one or a few keys several values, or --seeds 0-4")
    runs = []
    for chosen in itertools.product(*([f"{key}={v}" for v in values] or [key] for key, values in axes)):
        own = [text for text in chosen if text.partition("=")[0] in swept]
        name = _NOT_IN_NAMES.sub("_", ",".join(text.rpartition(".")[2] if _plain(text) else text for text in own))
        runs.append(SweptRun(folder / name, config, chosen, tuple(allowed)))
    if len({run.path for run in runs}) < len(runs):
        raise UserError("two runs would have the same folder", where="key=a,b,c", fix="use values that differ more")
    return runs


def _refuse_repeated(key: str, values: Sequence[str]) -> None:
    """Refuse values that say the same, if in other words: their runs would be the same.

    Raises:
        UserError: Naming both.
    """
    seen: list[tuple[Any, str]] = []
    for text in values:
        value = _meant(text)
        if (first := next((said for known, said in seen if known == value), None)) is not None:
            both = repr(text) if text == first else f"as {first!r} and as {text!r}"
            raise UserError(
                f"{key} has a value twice: {both}", where=f"{key}={','.join(values)}", fix="give each value once"
            )
        seen.append((value, text))


def _meant(text: str) -> Any:
    """The value that a text means; one that cannot be read, which its run says, means itself."""
    try:
        return parse_value(text)
    except yaml.YAMLError:
        return text


def _plain(text: str) -> bool:
    """Whether the last dot of `key=value` is one of the key's."""
    key, _, value = text.partition("=")
    return "." in key and "." not in value


def divided(value: str) -> list[str]:
    """A value at its commas, but for those in brackets, braces or quotes; ``[a,b]`` is one value."""
    parts, depth, quote = [""], 0, ""
    for letter in value:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return parts


@dataclass
class Outcome:
    """How the runs of a sweep ended: their exit codes; None: not begun."""

    codes: dict[Path, int | None] = field(default_factory=dict)

    @property
    def failed(self) -> list[Path]:
        """Folders of the runs that did not come to their end."""
        return [path for path, code in self.codes.items() if code != 0]


class _Gpus:
    """The GPUs of this machine; a run is given those that have the fewest.

    Args:
        names: As `visible_gpus` gives them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._runs, self._lock = dict.fromkeys(names, 0), Lock()

    @contextmanager
    def lent(self, count: int) -> Iterator[dict[str, str]]:
        """The variables of a run that is to see ``count`` of them; where there are fewer, it says so itself."""
        with self._lock:
            given = sorted(self._runs, key=self._runs.__getitem__)[:count] if count <= len(self._runs) else []
            self._count(given, 1)
        try:
            yield {"CUDA_VISIBLE_DEVICES": ",".join(given)} if given else {}
        finally:
            with self._lock:
                self._count(given, -1)

    def _count(self, given: Sequence[str], change: int) -> None:
        for name in given:
            self._runs[name] += change


def _gpus_for(runs: Sequence[SweptRun], jobs: int, tell: Callable[[str], object]) -> _Gpus:
    """The GPUs to be divided among ``jobs`` runs at a time; a run alone sees them all, as without a sweep."""
    at_once, most = min(jobs, len(runs)), max((run.gpus for run in runs), default=0)
    gpus = visible_gpus() if at_once > 1 and most else []
    if most <= len(gpus) < at_once * most:
        tell(f"{at_once} runs at a time share {len(gpus)} x cuda; with --jobs {len(gpus) // most} each has its own")
    return _Gpus(gpus)


def execute(runs: Sequence[SweptRun], *, jobs: int, tell: Callable[[str], object]) -> Outcome:
    """Do what is left of the runs, ``jobs`` at a time; what each says goes to `<folder>.txt` beside its own.

    A run that fails does not keep the others from running. Those that run at a time each see GPUs of their own.

    Args:
        runs: The runs.
        jobs: How many at once, >= 1.
        tell: Called with a line for each that begins or ends.

    Raises:
        Interrupted: By a signal; the runs have saved, and the same command goes on with them.
    """
    outcome, living, lock = Outcome({run.path: None for run in runs}), set[subprocess.Popen[bytes]](), Lock()
    stopped: list[int] = []
    gpus = _gpus_for(runs, jobs, tell)

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        for process in list(living):
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def one(number: int, run: SweptRun) -> None:
        with gpus.lent(run.gpus) as variables:
            with lock:
                if stopped:
                    return
                tell(f"run {number + 1} of {len(runs)}: {run.path.name}")
                run.path.parent.mkdir(parents=True, exist_ok=True)
                with run.path.with_name(f"{run.path.name}.txt").open("ab") as said:
                    # A session of its own: Ctrl-C reaches it through us, once.
                    process = subprocess.Popen(
                        [sys.executable, "-m", "hlrp_cli.main", *run.arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=said,
                        stderr=said,
                        env=os.environ | child_environment() | variables,
                        start_new_session=True,
                    )
                living.add(process)
                # A signal that came while it was started found nobody to pass it on to.
                for received in list(stopped):
                    process.send_signal(received)
            try:
                outcome.codes[run.path] = code = process.wait()
            finally:
                living.discard(process)
        if code:
            tell(f"run {number + 1} of {len(runs)}: {run.path.name} ended with {code}; see {run.path.name}.txt")

    with signal_handlers(stop), ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(one, number, run) for number, run in enumerate(runs)]:
            while not done.done():
                with suppress(TimeoutError):  # in slices: a wait without an end would keep signals from being handled
                    done.result(timeout=0.5)
            done.result()
    if stopped:
        raise Interrupted("interrupted: the same command goes on", stopped[0])
    return outcome


def last_lines(run: Path, count: int = 3) -> Iterator[str]:
    """What a run said last."""
    file = run.with_name(f"{run.name}.txt")
    if file.is_file():
        yield from file.read_text(encoding="utf8", errors="replace").strip().splitlines()[-count:]
