"""What a run whose data are streamed cannot have: each refused by its name, before anything is fetched."""

from collections.abc import Sequence

from hlrp.config import LaqModel, LightningRun
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import check_camera
from hlrp.errors import UserError


def refuse_unstreamable(run: LightningRun, datasets: Sequence[DatasetInfo]) -> None:
    """Refuse what would need files of a streamed dataset other than those of the samples at hand.

    Args:
        run: A run; one that does not stream is left alone.
        datasets: Its datasets.

    Raises:
        UserError: Naming the key.
    """
    if not run.data.streaming:
        return
    data, model = run.data, run.model
    needs_all = {
        "data.sources": (bool(data.sources), "of a mixture every batch reads every dataset"),
        "data.cache": (data.cache == "ram", "memory holds all frames or none; data.cache=disk keeps the last ones"),
        "data.filter": (data.filter.given, "what moves is known once all frames were seen"),
        "trainer.eval_split": (run.trainer.eval_split > 0, "held-out episodes lie in all files"),
        "model.labelled_episodes": (
            isinstance(model, LaqModel) and bool(model.labelled_episodes),
            "sums of actions are made of all tables",
        ),
    }
    for key, (given, why) in needs_all.items():
        if given:
            raise UserError(f"{key} cannot be had with data.streaming: {why}", where=key, fix="leave one of them out")
    for info in datasets:
        refuse_pictures(info, data.cameras or [check_camera(info, None)], "data.streaming")


def refuse_pictures(info: DatasetInfo, cameras: Sequence[str], where: str) -> None:
    """Refuse to stream cameras whose pictures lie in the tables, which would be fetched whole to find them.

    Raises:
        UserError: Naming the camera.
    """
    for camera in cameras:
        if info.features[check_camera(info, camera)]["dtype"] != "video":
            raise UserError(
                f"{camera} of {info.repo_id} is kept as pictures in the tables, which are read whole",
                where=where,
                fix="leave streaming out, or choose a camera with videos",
            )
