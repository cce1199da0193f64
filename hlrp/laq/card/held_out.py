"""Which episodes a quantizer may be judged on: those that its run held out, or all of a dataset that it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hlrp.config import LightningRun, SourceSection, load_config
from hlrp.data import DatasetInfo, WindowSource, read_dataset, read_episodes, split_episodes
from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.data.episodes import check_camera
from hlrp.errors import UserError
from hlrp.laq.checkpoint import LAQManifest
from hlrp.runs.directory import CONFIG, MANIFEST

MAX_FRAMES = 20_000
"""Frames of a source that are read at most: episodes are left out evenly beyond it."""

_FALLBACK_SPLIT = 0.1


@dataclass(frozen=True)
class HeldOut:
    """Episodes of one camera of one dataset, to judge with.

    Args:
        name: For people; unique in a report.
        source: The dataset, its camera and the episodes to read.
        available: Episodes that could be judged with, before the limit on frames.
        unseen: Whether none of them was trained on; None: not known.
        why: How they were chosen, one sentence.
    """

    name: str
    source: WindowSource
    available: int
    unseen: bool | None
    why: str

    @property
    def camera(self) -> str:
        """Key of the images."""
        assert self.source.cameras is not None
        return self.source.cameras[0]

    @property
    def episodes(self) -> list[int]:
        """The episodes to read."""
        return self.source.episodes or []


def run_of(model: Path) -> tuple[Path, LightningRun] | None:
    """The run folder around a model folder, with its configuration; None for a model that was copied out of its run.

    Raises:
        UserError: The run's configuration cannot be read.
    """
    model = model.absolute()
    for folder in (model, *model.parents[:3]):
        if (folder / MANIFEST).is_file() and (folder / CONFIG).is_file():
            run = load_config(folder / CONFIG).config
            return (folder, run) if isinstance(run, LightningRun) else None
    return None


def held_out_sources(
    run: LightningRun | None,
    manifest: LAQManifest,
    roots: Sequence[Path] = (),
    cameras: Sequence[str] = (),
    tolerance_s: float | None = None,
) -> list[HeldOut]:
    """What to judge a quantizer with.

    Args:
        run: The run that trained it, if that is known.
        manifest: The quantizer's.
        roots: Datasets; none: the run's own.
        cameras: Cameras; none: those that it was trained on where the dataset has them, else the only one.
        tolerance_s: Most seconds between a frame's time in its table and in its video; none: the run's, or the usual.

    Raises:
        UserError: No dataset to judge with, or it has none of these cameras.
    """
    if not roots and run is None:
        raise UserError(
            "nothing says which dataset to judge with", where="--dataset-root", fix="give the folder of a dataset"
        )
    if tolerance_s is None:
        tolerance_s = run.data.tolerance_s if run is not None else TOLERANCE_S
    if roots:
        infos = [read_dataset(None, root, where="--dataset-root", tolerance_s=tolerance_s) for root in roots]
    else:
        assert run is not None
        infos = [read_dataset(s.repo_id, s.root, tolerance_s=tolerance_s) for s in _sections(run)]
    found = []
    for info in infos:
        episodes, unseen, why = _choose(info, run, manifest)
        for camera in _cameras(info, manifest, cameras):
            name = info.repo_id if len(infos) == 1 else _name(info, infos)
            source = WindowSource(info, _limit(info, episodes), [camera])
            found.append(HeldOut(name, source, len(episodes), unseen, why))
    several = len({h.camera for h in found}) > 1
    return [replace(held, name=f"{held.name}, {held.camera}") for held in found] if several else found


def _sections(run: LightningRun) -> list[SourceSection]:
    return run.data.sources or [SourceSection(repo_id=run.data.repo_id, root=run.data.root)]


def _name(info: DatasetInfo, infos: Sequence[DatasetInfo]) -> str:
    same = sum(other.repo_id == info.repo_id for other in infos) > 1
    return f"{info.repo_id} ({info.root})" if same else info.repo_id


def _cameras(info: DatasetInfo, manifest: LAQManifest, asked: Sequence[str]) -> list[str]:
    if asked:
        return [check_camera(info, camera) for camera in asked]
    trained = [camera for camera in manifest.cameras if camera in info.cameras]
    return trained or [check_camera(info, None)]


def _choose(info: DatasetInfo, run: LightningRun | None, manifest: LAQManifest) -> tuple[list[int], bool | None, str]:
    """Episodes, whether they are unseen, and why these."""
    every = list(range(info.episodes))
    same_files = any(info.known_as(source.fingerprint) for source in manifest.sources)
    sections = [] if run is None else _sections(run)
    same_place = any(s.root is not None and Path(s.root).resolve() == info.root.resolve() for s in sections)
    if not same_files and not same_place:
        if manifest.sources:
            unseen, why = True, "the dataset is not among those trained on: all its episodes are unseen"
        else:
            unseen, why = None, "the weights do not say what they were trained on"
        return every, unseen, why
    if run is None:
        held = split_episodes(info, _FALLBACK_SPLIT)[1]
        return held, None, "the weights lie outside of their run, so which episodes were held out is not known"
    unseen = True if same_files else None
    changed = "" if same_files else "; the dataset has changed since the training"
    train, held = split_episodes(info, run.trainer.eval_split, episodes=run.data.episodes)
    if held:
        return held, unseen, f"held out of the training by trainer.eval_split={run.trainer.eval_split:g}{changed}"
    left = sorted(set(every) - set(train))
    if left:
        return left, unseen, f"not among the data.episodes of the training{changed}"
    held = split_episodes(info, _FALLBACK_SPLIT)[1]
    return held, False, "the training held nothing out (trainer.eval_split=0): these episodes were trained on"


def _limit(info: DatasetInfo, episodes: list[int]) -> list[int]:
    frames = int(read_episodes(info).lengths[[*episodes]].sum())
    if frames <= MAX_FRAMES:
        return episodes
    keep = max(1, len(episodes) * MAX_FRAMES // frames)
    return [episodes[i * len(episodes) // keep] for i in range(keep)]
