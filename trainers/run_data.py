"""The data of a run, for both trainers: where they lie, which they are, and whether anything is wrong with them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from hlrp.config import FoundationModel, LeRobotRun, LightningRun, OtherRun, PolicyModel
from hlrp.data.checks import dataset_problems, refuse_fatal
from hlrp.data.dataset_info import DatasetInfo, check_episodes, read_dataset
from hlrp.data.filtering import Selection
from hlrp.data.policy_checks import STATE, policy_problems
from hlrp.data.policy_sources import ACTION
from hlrp.data.problems import Problem
from hlrp.data.pseudo_label_checks import unweighted_problems
from hlrp.errors import UserError
from hlrp.progress import counted_lines
from hlrp.runs import DatasetRecord, RunDirectory
from trainers.base import from_weights
from trainers.policy_labels import OURS, mixture_of

if TYPE_CHECKING:
    from rich.console import Console

    from hlrp.data.policy_sources import PolicySource, PolicySources

_log = logging.getLogger("hlrp.data")
# Text that names a folder if there is one of that name, and else something on the Hub.
_FOLDERS_OR_NAMES = ("init_from", "backbone", "vlm_model_name", "latent_table", "latent_laq")
_KEYWORDS = ("tiny",)


def error_console() -> "Console":
    """Where people are told what goes on before there is a run."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def reading_told(console: "Console") -> dict[str, Any]:
    """How one is told, on a console, of frames that have to be read before training begins."""
    return {"announce": console.print, "progress": counted_lines(console, "reading frames", "frames")}


def with_absolute_paths[M: BaseModel](section: M) -> M:
    """The same configuration with every path whole, as seen from here, so that it means the same from anywhere."""
    changed: dict[str, Any] = {}
    for name, value in section:
        new = _absolute(name, value)
        if new is not value:
            changed[name] = new
    return section.model_copy(update=changed) if changed else section


def _absolute(name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return value if value.is_absolute() else value.absolute()
    if isinstance(value, BaseModel):
        return with_absolute_paths(value)
    if isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
        return [_absolute(name, item) for item in value]
    if isinstance(value, str) and name in _FOLDERS_OR_NAMES and value not in _KEYWORDS:
        path = Path(value).expanduser()
        return str(path.absolute()) if path.exists() else value
    return value


def resumed_paths[R: (LeRobotRun, LightningRun, OtherRun)](directory: RunDirectory, run: R) -> R:
    """The configuration of a run that is continued, whatever folder it was started in.

    Runs are stored with absolute paths; older ones may hold relative ones, whose datasets `run.json` knows.

    Raises:
        UserError: Another relative path that does not exist as seen from here.
    """
    data, known = run.data, directory.manifest.dataset
    if data.root is not None and not data.root.is_absolute() and known.root:
        data = data.model_copy(update={"root": Path(known.root)})
    places = [s.root for s in known.sources]
    if len(places) == len(data.sources):
        moved = [
            s.model_copy(update={"root": Path(place)}) if s.root and place and not s.root.is_absolute() else s
            for s, place in zip(data.sources, places, strict=True)
        ]
        data = data.model_copy(update={"sources": moved})
    run = run.model_copy(update={"data": data})
    for key, path in _relative(run, ""):
        if key != "output_dir" and not path.exists():
            raise UserError(
                f"{key} = {path} is relative to the folder in which the run was started; there is none in {Path.cwd()}",
                where=str(directory.path / "config.yaml"),
                fix="go to that folder and resume there, or write the whole path into the file",
            )
    return with_absolute_paths(run)


def _relative(section: BaseModel, prefix: str) -> list[tuple[str, Path]]:
    relative: list[tuple[str, Path]] = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            key = f"{prefix}{name}" + (f".{number}" if isinstance(value, list) else "")
            if isinstance(item, BaseModel):
                relative += _relative(item, f"{key}.")
            elif isinstance(item, Path) and not item.is_absolute():
                relative.append((key, item))
    return relative


def find_datasets(run: LeRobotRun | LightningRun) -> list[DatasetInfo]:
    """The datasets that the run names, checked by their metadata.

    Raises:
        UserError: One is missing or broken, or an episode does not exist.
    """
    data = run.data
    if data.sources:
        return [
            read_dataset(s.repo_id, s.root, where=f"data.sources.{i}", **data.reading)
            for i, s in enumerate(data.sources)
        ]
    dataset = read_dataset(data.repo_id, data.root, **data.reading)
    check_episodes(dataset, data.episodes)
    return [dataset]


def describe_data(datasets: Sequence[DatasetInfo], selections: Sequence[Selection] = ()) -> DatasetRecord:
    """What `run.json` keeps of the datasets of a run, and of what its filter leaves of them."""
    record = _describe(datasets)
    return record.model_copy(update={"filter": filter_mark(selections)}) if selections else record


def filter_mark(selections: Sequence[Selection]) -> str | None:
    """Identity of what a filter leaves; None without a filter."""
    return "+".join(selection.mark for selection in selections) or None


def check_same_filter(directory: RunDirectory, selections: Sequence[Selection]) -> None:
    """Refuse to continue with another filter: a position in the order would mean other samples.

    Raises:
        UserError: With what was left then and what is left now.
    """
    before, now = directory.manifest.dataset.filter, filter_mark(selections)
    if before != now and directory.manifest.tells_data:
        raise UserError(
            f"the filter of the run has changed: it left {before or 'all frames'} when the run began, and leaves "
            f"{now or 'all frames'} now",
            where=f"data.filter, {directory.path / 'config.yaml'}",
            fix=f"restore it, or start a new run from the weights: {from_weights(directory.path)}",
        )


def _describe(datasets: Sequence[DatasetInfo]) -> DatasetRecord:
    described = [
        DatasetRecord(
            repo_id=d.repo_id,
            root=str(d.root.absolute()),
            fingerprint=d.fingerprint(),
            episodes=d.episodes,
            frames=d.frames,
            fps=d.fps,
        )
        for d in datasets
    ]
    if len(described) == 1:
        return described[0]
    joined = "+".join(str(d.fingerprint) for d in described)
    return DatasetRecord(sources=described, fingerprint=joined) if described else DatasetRecord()


def check_same_data(directory: RunDirectory, datasets: Sequence[DatasetInfo]) -> None:
    """Refuse to continue on data that have changed: frames, order and held-out episodes would be others.

    Raises:
        UserError: With both fingerprints.
    """
    before = directory.manifest.dataset.fingerprint
    if not before or not datasets:
        return
    marks = before.split("+")
    if len(marks) == len(datasets) and all(d.known_as(mark) for d, mark in zip(datasets, marks, strict=True)):
        return
    raise UserError(
        f"the data have changed since the run began: fingerprint {before} then, "
        f"{describe_data(datasets).fingerprint} now",
        where=", ".join(str(d.root) for d in datasets),
        fix=f"restore the dataset, or start a new run from the weights: {from_weights(directory.path)}",
    )


def check_data(run: LeRobotRun | LightningRun, datasets: Sequence[DatasetInfo]) -> list[str]:
    """Look for faults of the run's datasets before it starts; nothing is decoded whole.

    Returns:
        Warnings, one line each.

    Raises:
        UserError: The first fault with which training would fail or give wrong numbers.
    """
    mixture = mixture_of(run)
    if mixture is not None:
        return [line for source in mixture.sources for line in _check_source(run, mixture, source)]
    warnings: list[str] = []
    for info in datasets:
        cameras = [c for c in run.data.cameras or info.cameras if c in info.cameras]
        problems: list[Problem] = []
        if isinstance(run.model, PolicyModel):
            # A pretrained policy's own list of features is held against the dataset when it is loaded.
            problems += policy_problems(info, None if run.model.init_from else run.model.policy_type, cameras)
        reading = _reading(run, info)
        problems += dataset_problems(info, run.data.episodes, cameras, **reading)
        if isinstance(run.model, PolicyModel) and not _counts_by_confidence(run.model):
            episodes = reading["labelled"].get("action", run.data.episodes)
            problems += unweighted_problems(info, run.model.policy_type, episodes)
        warnings += refuse_fatal(iter(problems), info)
    return warnings


def _check_source(run: LeRobotRun | LightningRun, mixture: "PolicySources", source: "PolicySource") -> list[str]:
    """As `check_data`, of one dataset of a policy's mixture, of which not all may be trained on."""
    info, seen = source.info, [c for c in mixture.cameras if c in source.features]
    policy = run.model.policy_type if isinstance(run.model, PolicyModel) and not run.model.init_from else None
    problems: list[Problem] = [*policy_problems(source.renamed, policy, seen)]
    used = [ACTION] if source.labelled else []
    used += [STATE] if mixture.shows_state(source, labelled=bool(source.labelled)) else []
    used += [name for name in mixture.shared if name.startswith("observation.")]
    labelled: dict[str, Sequence[int]] = {source.own_name(name): source.labelled for name in used}
    if mixture.states_shown:
        labelled.pop(source.own_name(STATE), None)
    problems += dataset_problems(
        info,
        None,
        [source.own_name(camera) for camera in seen],
        used=[source.own_name(name) for name in used],
        by_lerobot=False,
        needs_statistics=False,
        labelled=labelled,
    )
    if source.labelled and isinstance(run.model, PolicyModel) and not _counts_by_confidence(run.model):
        ours = run.model.policy_type.startswith(OURS)
        # LeRobot's policies take a source with all its episodes labelled, or not at all.
        leave_out = f"of {source.where}.labelled_episodes" if ours else "of the dataset (lerobot-edit-dataset)"
        problems += unweighted_problems(info, run.model.policy_type, source.labelled, leave_out=leave_out)
    return refuse_fatal(iter(problems), info)


def _reading(run: LeRobotRun | LightningRun, info: DatasetInfo) -> Mapping[str, Any]:
    """What a run reads of a dataset's numbers, and through whose reader."""
    model = run.model
    if isinstance(model, PolicyModel):
        used = [n for n in info.features if n == "action" or n.startswith("observation.")]
        if model.policy_fields.get("use_relative_actions"):
            used.remove("action")  # its statistics are of differences, not of what the tables hold
        by_lerobot = isinstance(run, LeRobotRun) or run.data.cache == "off"
        fetchable = by_lerobot and run.allow_download
        labelled = _labelled(model, info, used)
        return {"used": used, "by_lerobot": by_lerobot, "fetchable": fetchable, "labelled": labelled}
    used = [STATE] if isinstance(model, FoundationModel) and model.use_state else []
    return {"used": used, "by_lerobot": False, "needs_statistics": False}


def _counts_by_confidence(model: PolicyModel) -> bool:
    """Whether the policy counts every action of a dataset with pseudo-labels by its confidence."""
    return model.policy_type.startswith(OURS) and bool(model.policy_fields.get("use_action_confidence", True))


def _labelled(model: PolicyModel, info: DatasetInfo, used: Sequence[str]) -> dict[str, Sequence[int]]:
    """The episodes in which a policy reads a column, where these are not all; LeRobot's policies know no such thing."""
    fields = model.policy_fields
    episodes = fields.get("labelled_episodes")
    if not model.policy_type.startswith(OURS) or not isinstance(episodes, list):
        return {}
    shown = range(info.episodes) if fields.get("state_of_unlabelled") else episodes
    return {name: shown if name == STATE else episodes for name in used if name not in info.cameras}
