"""`--resume auto`: one command, given any number of times, begins the run of its output folder or goes on with it."""

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hlrp.config import LeRobotRun, LightningRun, OtherRun, load_config
from hlrp.errors import UserError
from hlrp.locks import FolderLock, is_unwritten
from hlrp.ranks import Launch, is_first_process
from hlrp.runs import RunDirectory
from hlrp.runs.directory import CONFIG
from hlrp.runs.listing import SET_ASIDE
from trainers.base import RunResult
from trainers.camera_names import with_camera_names
from trainers.crew import Crew, placed
from trainers.fetching import fetched
from trainers.moved_data import moved_as
from trainers.recovery import open_to_resume
from trainers.run_data import with_absolute_paths

_log = logging.getLogger("hlrp.runs")
# A run may become longer, which is looked at apart; the others decide nothing of its numbers.
_FREE = frozenset({"trainer.steps", "output_dir", "allow_download", "push_to_hub", "slurm"})
_MOST_SHOWN = 5


class Start(NamedTuple):
    """How a run begins, or goes on.

    Args:
        path: Its folder.
        run: Its configuration.
        directory: The run, if it has a checkpoint to go on from.
        steps: Those that it is to have; None: it counts epochs.
        done: What it left, if it has them all.
    """

    path: Path
    run: LeRobotRun | LightningRun | OtherRun
    directory: RunDirectory | None = None
    steps: int | None = None
    done: RunResult | None = None


def find_start(run: LeRobotRun | LightningRun | OtherRun, *, dry_run: bool = False) -> Start:
    """Where the run of an output folder stands; of several processes the first one looks, for all of them.

    Args:
        run: What the command asks for.
        dry_run: Fetch nothing of what it names.

    Raises:
        UserError: No output folder is named, the one that is holds no run, or one of other settings or of more steps.
    """
    if run.output_dir is None:
        raise UserError(
            "nothing says which run to go on with", where="--resume auto", fix="name its folder: --output-dir DIR"
        )
    path, crew, run = run.output_dir.absolute(), Crew.current, placed(run, Launch.of(os.environ))
    if crew is None:
        return _look(run, path, fetch=not dry_run)
    start = _look(run, path, fetch=not dry_run) if crew.first else None
    goes_on, done = crew.agree("start", lambda: start and [bool(start.directory), bool(start.done)])
    if start is not None:
        return start
    asked = _asked(run, fetch=not dry_run) if goes_on else run
    directory = open_to_resume(path) if goes_on else None
    return Start(path, asked, directory, _length(asked), RunResult(path, None, {}, []) if done else None)


def _look(run: LeRobotRun | LightningRun | OtherRun, path: Path, *, fetch: bool) -> Start:
    if not path.exists() or (path.is_dir() and is_unwritten(path)):
        return Start(path, run)
    directory = open_to_resume(path)
    saved = load_config(path / CONFIG).config
    asked = _asked(run, fetch=fetch)
    if not isinstance(asked, OtherRun):
        saved = saved.model_copy(update={"data": moved_as(directory, saved.data, asked)})
    if other := list(_differences(asked.model_dump(mode="json"), saved.model_dump(mode="json"))):
        more = f" and {len(other) - _MOST_SHOWN} more" if len(other) > _MOST_SHOWN else ""
        raise UserError(
            f"the run there has other settings: {'; '.join(other[:_MOST_SHOWN])}{more}",
            where=str(path / CONFIG),
            fix="choose another --output-dir, or give the settings with which the run began",
        )
    latest, manifest = directory.latest(), directory.manifest
    if latest is None:
        return Start(path, run)
    steps = _length(asked)
    # One that was made longer keeps the settings with which it began, and the command that began it goes on with it.
    begun_with, length = saved.trainer.steps, manifest.steps or saved.trainer.steps
    if steps is not None and steps < begun_with:
        raise UserError(
            f"the run there has more steps: trainer.steps is {begun_with} there, {steps} here",
            where=str(path / CONFIG),
            fix=f"choose another --output-dir, or give trainer.steps={begun_with}, or more to make it longer",
        )
    total = steps or manifest.steps
    done = latest.step >= (total or latest.step + 1)
    if latest.step == total and not isinstance(asked, OtherRun):
        done = manifest.status == "finished"  # or it may have been killed among its last rollouts
    # A callback or a limit of time may have ended it before its last step; more steps than it asked for are a new wish.
    done |= manifest.status == "finished" and steps in (None, begun_with, length)
    left = RunResult(directory.path, latest.path, manifest.final_metrics or {}, manifest.warnings) if done else None
    return Start(path, asked, directory, steps, left)


def _asked(run: LeRobotRun | LightningRun | OtherRun, *, fetch: bool) -> LeRobotRun | LightningRun | OtherRun:
    """The run as its folder has it written down."""
    if isinstance(run, OtherRun):
        return with_absolute_paths(run)
    if isinstance(run, LeRobotRun):
        return with_camera_names(with_absolute_paths(fetched(run, fetch=fetch)), _not_told)
    return with_camera_names(with_absolute_paths(fetched(run, fetch=fetch)), _not_told)


def _length(run: LeRobotRun | LightningRun | OtherRun) -> int | None:
    return run.trainer.steps if run.trainer.max_epochs is None else None


def set_aside(path: Path) -> None:
    """Make room for a new start where a run has died before its first checkpoint; its log can still be read.

    Of several processes the first one does so.

    Raises:
        LockedError: It has not died.
    """
    if not is_first_process() or not path.is_dir() or is_unwritten(path):
        return
    with FolderLock(path) as lock:
        numbered = (path.with_name(f"{path.name}{SET_ASIDE}{number}") for number in itertools.count(1))
        aside = next(place for place in numbered if not place.exists())
        aside.mkdir()
        for item in path.iterdir():
            if item not in lock.files:
                item.rename(aside / item.name)
    with suppress(OSError):
        path.rmdir()  # unless another process has come by and claims it
    _log.warning("the run in %s has no checkpoint: what it wrote is in %s now, and it begins anew", path, aside.name)


def _not_told(_: str) -> None:
    """The run said it when it began."""


def _differences(asked: Any, saved: Any, key: str = "") -> Iterator[str]:
    if key in _FREE:
        return
    if isinstance(asked, dict) and isinstance(saved, dict):
        for name in {**saved, **asked}:
            yield from _differences(asked.get(name), saved.get(name), f"{key}.{name}".lstrip("."))
    elif asked != saved and not _same_place(asked, saved):
        yield f"{key} is {saved} there, {asked} here"


def _same_place(asked: Any, saved: Any) -> bool:
    both = isinstance(asked, str) and isinstance(saved, str) and Path(asked).is_absolute() and Path(saved).is_absolute()
    return both and Path(asked).resolve() == Path(saved).resolve()
