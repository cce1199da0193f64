"""What a run reads and starts from, on this machine: what it names on the Hub is fetched, if it may be."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from hlrp.config import ClassPath, LeRobotRun, LightningRun, PolicyModel, refuse_unused
from hlrp.data.hub import fetch_dataset
from hlrp.errors import UserError
from hlrp.runs.published import folder_of

_log = logging.getLogger("hlrp.data")


def fetched[R: (LeRobotRun, LightningRun)](run: R, *, fetch: bool = True) -> R:
    """The run with its data and models on this machine: of those that are named, what it reads is fetched if it may be.

    Args:
        run: The run.
        fetch: False: for a dry run, find them as they were fetched before.

    Raises:
        UserError: A key without effect; or there is no such dataset, episode, camera or model, or no network.
    """
    run = with_published(run, allow_download=run.allow_download and fetch)
    if not run.allow_download:
        return run
    refuse_unused(run)
    data, find = run.data, partial(fetch_dataset, announce=_log.warning, fetch=fetch)
    by_lerobot = isinstance(run.model, PolicyModel) and (isinstance(run, LeRobotRun) or data.cache == "off")
    if data.repo_id is not None and data.root is None:
        cameras = None if by_lerobot else data.cameras
        root = find(data.repo_id, episodes=data.episodes, cameras=cameras, streamed=data.streaming)
        data = data.model_copy(update={"root": root})
    sources = [
        section.model_copy(update={"root": find(section.repo_id)})
        if section.repo_id is not None and section.root is None
        else section
        for section in data.sources
    ]
    return run.model_copy(update={"data": data.model_copy(update={"sources": sources})})


def with_published[R: (LeRobotRun, LightningRun)](run: R, *, allow_download: bool) -> R:
    """The run with folders in place of what it names on the Hub: weights to start from, quantizer, tables.

    Args:
        run: The run.
        allow_download: Fetch what is not here; a dry run does not.

    Raises:
        UserError: Something is neither here nor, as far as may be looked, on the Hub.
    """

    def here(given: Path | None, where: str) -> Path | None:
        return given and folder_of(given, where, allow_download=allow_download)

    latents, model, data = run.latents, run.model, run.data
    table, laq = here(latents.table, "--latents / latents.table"), here(latents.laq, "--online-laq / latents.laq")
    update: dict[str, Any] = {"latents": latents.model_copy(update={"table": table, "laq": laq})}
    if not isinstance(model, ClassPath) and model.init_from is not None:
        start = folder_of(
            Path(model.init_from).expanduser(), "--init-from / model.init_from", allow_download=allow_download
        )
        update["model"] = model.model_copy(update={"init_from": str(start)})
    if data.sources:
        sources = [s.model_copy(update={"table": here(s.table, "data.sources: table")}) for s in data.sources]
        update["data"] = data.model_copy(update={"sources": sources})
    return run.model_copy(update=update)


def fetched_before[R: (LeRobotRun, LightningRun)](run: R) -> R:
    """The run as a dry run sees it: as it will be `fetched`, if all that it reads was fetched before.

    Where LeRobot will fetch the dataset, or the folder of a part of it is still to be made, what is here stands in.

    Raises:
        UserError: A dataset is not here, and would be fetched by this project's own reader.
    """
    here = with_published(run, allow_download=False)
    try:
        found = fetched(here, fetch=False)
    except UserError:
        if isinstance(run, LightningRun):
            raise
        return here
    return found if found.data.root is None or found.data.root.is_dir() else here
