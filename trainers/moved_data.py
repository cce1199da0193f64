"""A run that is continued after its datasets, or what it was started from, were moved: what may be given anew then."""

import json
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hlrp.config import DataSection, FoundationModel, LaqModel, LeRobotRun, LightningRun, OtherRun, PolicyModel
from hlrp.errors import UserError
from hlrp.runs import RunDirectory, resolve_pretrained
from hlrp.runs.directory import CONFIG, MANIFEST
from trainers.data_places import places_of, with_places
from trainers.run_data import check_same_data, find_datasets, resumed_paths


def movable(run: LeRobotRun | LightningRun | OtherRun) -> Collection[str]:
    """Keys that a run which goes on takes anew, as its trainer holds what lies there against the run's fingerprint."""
    return places_of(run.data).keys() if isinstance(run, LeRobotRun | LightningRun) else ()


def at_given_places[R: (LeRobotRun, LightningRun, OtherRun)](
    directory: RunDirectory, run: R, given: Collection[str]
) -> R:
    """The run with those of its folders whole, as seen from here, that the command gives.

    Args:
        directory: The run that goes on.
        run: Its configuration with the new folders.
        given: Their keys.

    Raises:
        UserError: Whether the same data lie there cannot be said.
    """
    if not given:
        return run
    if not directory.manifest.dataset.fingerprint:
        raise UserError(
            "the run does not say which data it began with, so that others could not be told from them",
            where=f"{', '.join(given)}; {directory.path / MANIFEST}",
            fix=f"if they are the same, write their folder into {directory.path / CONFIG}",
        )
    whole = {key: place and place.absolute() for key, place in places_of(run.data).items() if key in given}
    return run.model_copy(update={"data": with_places(run.data, whole)})


def resumed_data[R: (LeRobotRun, LightningRun)](directory: RunDirectory, run: R) -> R:
    """The configuration of a run that is continued, see `resumed_paths`, with datasets that are there.

    Raises:
        UserError: The folder of one has gone; or as `resumed_paths`.
    """
    run = resumed_paths(directory, run)
    for key, place in places_of(run.data).items():
        if place is not None and not place.is_dir():
            flag = "--dataset-root " if key == "data.root" else f"{key}="
            raise UserError(
                f"there is no dataset folder {place}",
                where=f"{key}, {directory.path / CONFIG}",
                fix=f"if it was moved: hlrp train --resume {shlex.quote(str(directory.path))} {flag}DIR",
            )
    return run


def moved_as(directory: RunDirectory, saved: DataSection, asked: LeRobotRun | LightningRun) -> DataSection:
    """The section of a run, with its data where ``asked`` has them if those that the run began with lie there."""
    before, now = places_of(saved), places_of(asked.data)
    known = directory.manifest.dataset.fingerprint
    if not known or before.keys() != now.keys() or before == now or None in now.values():
        return saved
    try:
        check_same_data(directory, find_datasets(asked))
    except UserError:
        return saved
    return with_places(saved, now)


def from_its_checkpoint[R: (LeRobotRun, LightningRun)](run: R, checkpoint: Path) -> R:
    """The configuration with which a run goes on: what it was started from may have gone, its checkpoint has it all.

    A policy that was started from a foundation model still needs that: it says how pictures of a mixture are read.

    Args:
        run: The run as it was started.
        checkpoint: The checkpoint folder that it goes on from.
    """
    model = run.model
    if isinstance(model, LaqModel):
        changes: dict[str, Any] = {"init_from": None}  # all of it is in the training state
    elif isinstance(model, FoundationModel):
        # Its statistics and the backbone's own files are not.
        changes = {"init_from": str(checkpoint), "backbone": None}
    elif isinstance(model, PolicyModel) and model.init_from is not None:
        saved = json.loads((resolve_pretrained(checkpoint) / "config.json").read_text(encoding="utf8"))
        changes = {} if saved.get("init_from") == model.init_from else {"init_from": str(checkpoint)}
    else:
        return run
    return run.model_copy(update={"model": model.model_copy(update=changes)})
