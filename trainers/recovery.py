"""Going on with a run whose `run.json` was damaged: what its configuration and its newest checkpoint say of it."""

import json
from pathlib import Path

from hlrp.config import LeRobotRun, LightningRun, load_config
from hlrp.data.shuffling import SHUFFLING
from hlrp.runs import Checkpoint, RunDirectory, RunManifest
from hlrp.runs.directory import CONFIG
from hlrp.runs.manifest import DamagedError
from trainers.lifecycle import job_name


def open_to_resume(path: Path) -> RunDirectory:
    """A run that is to be continued; if its `run.json` is damaged, by the rest of its folder.

    What is written later takes the damaged file's place, which is kept beside it. What that said of the data is lost: a
    run that goes on is held against its dataset's fingerprint no more.

    Raises:
        UserError: The folder is no run, or was written by a newer release; or nothing in it can be continued.
    """
    try:
        return RunDirectory.open(path)
    except DamagedError as damage:
        found = RunDirectory(path.absolute(), RunManifest(), damage=damage.problem)
        newest = found.latest()
        if newest is None or not (path / CONFIG).is_file():
            raise
        run = load_config(path / CONFIG).config
        if not isinstance(run, LeRobotRun | LightningRun):
            raise
        found.manifest = RunManifest(
            status="interrupted",
            trainer=run.trainer_type,
            policy=job_name(run),
            seed=run.trainer.seed,
            steps=_steps_of_lerobot(newest) if isinstance(run, LeRobotRun) else None,
            processes=run.trainer.processes,
            shuffling=SHUFFLING,
        )
        return found


def _steps_of_lerobot(newest: Checkpoint) -> int | None:
    """The steps that a run of LeRobot was to have when the checkpoint was written: it may have been made longer."""
    try:
        return int(json.loads((newest.pretrained / "train_config.json").read_text(encoding="utf8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
