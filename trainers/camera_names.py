"""What the cameras of a run are called: short names made whole, and an only camera known under two names."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from hlrp.camera_names import UNNAMED, cameras_among, full_name, with_only_camera
from hlrp.config import DataSection, LeRobotRun, LightningRun, PolicyModel, SourceSection, require_dataset
from hlrp.data.dataset_info import DatasetInfo, find_dataset, read_dataset
from hlrp.errors import UserError
from hlrp.ranks import is_first_process
from trainers.policy_labels import saved_fields


def with_camera_names[R: (LeRobotRun, LightningRun)](run: R, announce: Callable[[str], None]) -> R:
    """The run with `data.cameras` by full names, and with the renaming that goes without saying written out.

    That is of the only camera of a dataset, or of each of several, and of the policy that training starts from; see
    `hlrp.camera_names.with_only_camera`. What is wrong with the data is left to the checks that follow.

    Args:
        run: The run; its datasets are on this machine, or nothing is changed.
        announce: Given a line for each renaming.

    Raises:
        UserError: It names no dataset.
    """
    say = announce if is_first_process() else lambda _: None
    data = run.data
    require_dataset(run)
    sections = data.sources or [SourceSection(repo_id=data.repo_id, root=data.root)]
    with suppress(UserError):
        if any(find_dataset(section.repo_id, section.root) is None for section in sections):
            return run
        infos = [read_dataset(section.repo_id, section.root, tolerance_s=data.tolerance_s) for section in sections]
        known = _names(data.sources, infos) if data.sources else infos[0].cameras
        if data.cameras is not None:
            names = [full_name(camera, dict.fromkeys(known)) or camera for camera in data.cameras]
            data = data.model_copy(update={"cameras": names})
        if isinstance(run.model, PolicyModel):
            inputs = list(saved_fields(run.model).get("input_features") or {})
            data = _of_policy(data, infos, inputs, say)
    return run.model_copy(update={"data": data})


def _of_policy(
    data: DataSection, infos: Sequence[DatasetInfo], inputs: Sequence[str], say: Callable[[str], None]
) -> DataSection:
    if not data.sources:
        given = data.cameras or infos[0].cameras
        return data.model_copy(update={"rename_map": with_only_camera(given, inputs, data.rename_map, say)})
    if any(len(info.cameras) != 1 for info in infos):
        return data
    names = _names(data.sources, infos)
    common = cameras_among(inputs) or [name for name in dict.fromkeys(names) if name != UNNAMED]
    sources = []
    for number, (section, info, name) in enumerate(zip(data.sources, infos, names, strict=True)):
        where = f"data.sources.{number}"
        found = with_only_camera([name], common, {}, partial(_say_of, say, where))
        renamed = {info.cameras[0]: found[name]} if name in found else {}
        sources.append(section.model_copy(update={"rename_map": section.rename_map | renamed}))
    return data.model_copy(update={"sources": sources})


def _say_of(say: Callable[[str], None], where: str, line: str) -> None:
    say(f"{where}: {line}")


def _names(sections: Sequence[SourceSection], infos: Sequence[DatasetInfo]) -> list[str]:
    """The cameras of all sources, by their names in the mixture."""
    pairs = zip(sections, infos, strict=True)
    return [section.rename_map.get(camera, camera) for section, info in pairs for camera in info.cameras]
