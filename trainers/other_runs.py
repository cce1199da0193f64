"""Runs of trainers of other packages: what the command does for each of them, as the own trainers do it themselves."""

import os

from hlrp.config import OtherRun
from hlrp.ranks import Launch
from hlrp.runs import RunDirectory
from trainers.crew import placed
from trainers.lifecycle import resumable, with_length
from trainers.registry import check_keys
from trainers.run_data import resumed_paths, with_absolute_paths


def ready_to_begin(run: OtherRun) -> OtherRun:
    """The run with whole paths and the processes that its launcher started.

    Raises:
        UserError: It gives a key that its trainer does not act on, or its launcher started others.
    """
    run = with_absolute_paths(placed(run, Launch.of(os.environ)))
    check_keys(run)
    return run


def ready_to_go_on(directory: RunDirectory, run: OtherRun, steps: int | None) -> tuple[OtherRun, int | None]:
    """The run as it goes on, and its length.

    Args:
        directory: The run.
        run: Its configuration.
        steps: Its new length; None: the one that it had last.

    Returns:
        The run, whose `trainer.steps` is its length unless it counts epochs, and that length; None: it is not known.

    Raises:
        UserError: The run has no complete checkpoint or no steps left; or as `ready_to_begin`.
    """
    run = resumed_paths(directory, placed(run, Launch.of(os.environ), resumed=True))
    check_keys(run)
    section, total = with_length(directory, run.trainer, steps)
    resumable(directory, total)
    return run.model_copy(update={"trainer": section}), total
