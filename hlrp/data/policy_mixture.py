"""Samples of a policy's mixture of datasets, for either trainer: what a source lacks is flagged, never invented."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from hlrp.data.augmentation import Transforms
from hlrp.data.columns import read_columns, read_tasks
from hlrp.data.compact import FrameRanges
from hlrp.data.episodes import read_episodes
from hlrp.data.filtering import Selection, kept_ranges
from hlrp.data.labelled_statistics import LabelledRows, labelled_statistics
from hlrp.data.mixture import Batch, Mixture
from hlrp.data.policy_checks import STATE
from hlrp.data.policy_samples import GatheredSamples
from hlrp.data.policy_sources import ACTION, PolicySource, PolicySources
from hlrp.data.readers import FrameReader, FramesWanted, open_readers
from hlrp.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger("hlrp.data")
_PAD = "_is_pad"
SPACE_FLAGS = "action_space_is_pad"
"""Of a mixture with several action spaces: bool `[B, spaces]`, False at the one that a sample's action is of."""
_INDEX, _EPISODE, _TASK = "index", "episode_index", "task_index"


class MixtureMetadata:
    """What LeRobot asks of a dataset's metadata, of a mixture.

    Statistics of actions and states are those of the labelled rows of all sources one behind the other, from the tables
    alone; those of cameras are ImageNet's, as LeRobot's training sets them.

    Args:
        sources: The mixture.
    """

    has_language_columns = False

    def __init__(self, sources: PolicySources) -> None:
        self.sources = sources
        info = sources.info
        self.repo_id, self.root, self.fps = info.repo_id, info.root, info.fps
        self.features = {name: {**f, "shape": tuple(f["shape"])} for name, f in info.features.items()}
        self.camera_keys = self.video_keys = list(sources.cameras)
        self.image_keys: list[str] = []
        self.depth_keys: list[str] = []
        self.total_episodes, self.total_frames = info.episodes, info.frames

    @cached_property
    def stats(self) -> dict[str, dict[str, Any]]:
        """Feature to `mean`, `std`, `min`, `max`, `count` and quantiles."""
        from lerobot.utils.constants import IMAGENET_STATS

        usual = {name: torch.tensor(value, dtype=torch.float32) for name, value in IMAGENET_STATS.items()}
        found = [self._statistics_of(number) for number in range(len(self.sources.spaces))]
        names = [n for n in self.features if any(n in stats for stats in found)]
        joined = {name: _side_by_side([stats[name] for stats in found if name in stats]) for name in names}
        return {**joined, **dict.fromkeys(self.camera_keys, usual)}

    def _statistics_of(self, number: int) -> "dict[str, dict[str, NDArray[Any]]]":
        """Of the labelled rows of one action space."""
        numbers = [n for n in self.features if n.startswith((ACTION, "observation.")) and n not in self.camera_keys]
        mine = [s for s in self.sources.sources if s.labelled and self.sources.space_of(s) == number]
        columns = [{n: s.own_name(n) for n in numbers if n in s.features} for s in mine]
        return labelled_statistics(*(LabelledRows(s.info, s.labelled, c) for s, c in zip(mine, columns, strict=True)))

    @cached_property
    def episodes(self) -> dict[str, list[Any]]:
        """Where each episode begins and ends, and its task, as LeRobot's table of episodes has them."""
        table: dict[str, list[Any]] = {"dataset_from_index": [], "dataset_to_index": [], "tasks": []}
        for source, first in zip(self.sources.sources, self.sources.first_frame, strict=True):
            found = read_episodes(source.info)
            table["dataset_from_index"] += (found.start + first).tolist()
            table["dataset_to_index"] += (found.end + first).tolist()
            table["tasks"] += [[task] for task in found.task]
        return table


def _side_by_side(parts: "Sequence[dict[str, NDArray[Any]]]") -> "dict[str, NDArray[Any]]":
    """Statistics of action spaces as those of one action; `count` is that of all rows."""
    first = parts[0]
    return {
        key: sum((p[key] for p in parts[1:]), first[key]) if key == "count" else np.concatenate([p[key] for p in parts])
        for key in first
    }


class _SourceSamples:
    """What `PolicyMixture` keeps of one source; starts are the frames that samples are of."""

    def __init__(
        self,
        number: int,
        mixture: PolicySources,
        episodes: Sequence[int],
        drop_last: int,
        selection: Selection | None,
    ) -> None:
        self.source: PolicySource = mixture.sources[number]
        self._mixture = mixture
        self.table = read_episodes(self.source.info)
        self.starts = self.table.frame_ranges(episodes, drop_last=drop_last)
        if selection is not None:
            kept = kept_ranges(self.table, episodes, selection.keep, drop_last=drop_last)
            self.starts = FrameRanges(*kept)
        self._first = {_INDEX: mixture.first_frame[number], _EPISODE: mixture.first_episode[number]}
        self._labelled = np.zeros(len(self.table), bool)
        self._labelled[self.source.labelled] = True
        self._space = mixture.space_of(self.source)
        self._deltas: Mapping[str, Sequence[int]] = {}
        self._gathered: GatheredSamples | None = None

    @property
    def cameras(self) -> list[str]:
        """Cameras of the mixture that this source has."""
        return [c for c in self._mixture.cameras if c in self.source.features]

    def _numbers(self) -> list[str]:
        labelled = bool(self.source.labelled)
        mine = [ACTION] if labelled else []
        mine += [STATE] if self._mixture.shows_state(self.source, labelled=labelled) else []
        return [*mine, *self._mixture.shared]

    def open(
        self,
        readers: Mapping[str, FrameReader],
        episodes: list[int],
        deltas: Mapping[str, Sequence[int]],
        tasks: Mapping[str, int],
    ) -> None:
        """Read the tables; ``deltas`` are offsets in frames by feature, ``tasks`` the sentences' numbers."""
        own = self.source.own_name
        names = self._numbers()
        columns = read_columns(self.source.info, [own(name) for name in names], episodes)
        # In a mixture a task is known by its sentence: sources number theirs as they like.
        sentences = read_tasks(self.source.info)
        self._tasks = np.asarray([tasks[s] for s in sentences] or [0], np.int64)
        self._deltas = deltas
        self._gathered = GatheredSamples(
            self.table,
            {name: columns[own(name)] for name in names},
            readers,
            tasks=sentences,
            deltas={name: offsets for name, offsets in deltas.items() if name in {*names, *readers}},
            single=[*readers],
        )

    def read(self, starts: "NDArray[np.int64]") -> "dict[str, NDArray[Any]]":
        assert self._gathered is not None, "open() comes before read()"
        found = self._gathered.__getitems__(starts.tolist())
        del found["task"]
        batch = {name: value.numpy() for name, value in found.items()}
        labelled = self._labelled[batch[_EPISODE]]
        if len(self._mixture.spaces) > 1:
            self._place(batch, len(starts))
        self._hide(batch, ACTION, labelled)
        if self._mixture.has_state:
            shown = labelled | self._mixture.states_shown
            self._hide(batch, STATE, shown, flag=self._mixture.hides_states)
        for camera in self._mixture.cameras:
            self._flag_camera(batch, camera, len(starts))
        batch[_TASK] = self._tasks[batch[_TASK]]
        return batch | {name: batch[name] + first for name, first in self._first.items()}

    def _place(self, batch: "dict[str, NDArray[Any]]", count: int) -> None:
        """The numbers of this source's action space among those of all, and a flag at each space that is not its."""
        spaces = self._mixture.spaces
        batch[SPACE_FLAGS] = np.ones((count, len(spaces)), bool)
        if self._space is None:
            return
        batch[SPACE_FLAGS][:, self._space] = False
        for name, at in ((ACTION, spaces[self._space].action), (STATE, spaces[self._space].state)):
            if name in batch:
                width = self._mixture.info.features[name]["shape"][0]
                times = [] if name not in self._deltas else [len(self._deltas[name])]
                own = batch[name].reshape(count, *times, len(at))
                batch[name] = np.zeros((count, *times, width), own.dtype)
                batch[name][..., at.start : at.stop] = own

    def _hide(
        self, batch: "dict[str, NDArray[Any]]", name: str, shown: "NDArray[np.bool_]", *, flag: bool = True
    ) -> None:
        """Zeros and a flag wherever a sample's numbers may not be known, whatever the table holds there."""
        feature, offsets = self._mixture.info.features[name], self._deltas.get(name)
        width = [] if list(feature["shape"]) == [1] else list(feature["shape"])
        times = [] if offsets is None else [len(offsets)]
        if name not in batch:
            batch[name] = np.zeros((len(shown), *times, *width), np.float32)
            batch[f"{name}{_PAD}"] = np.ones((len(shown), *times), bool)
            return
        keep = shown.reshape(-1, *[1] * (batch[name].ndim - 1))
        batch[name] = np.where(keep, batch[name], batch[name].dtype.type(0))
        if flag:
            before = batch.get(f"{name}{_PAD}", np.zeros((len(shown), *times), bool))
            batch[f"{name}{_PAD}"] = before | ~shown.reshape(-1, *[1] * (before.ndim - 1))

    def _flag_camera(self, batch: "dict[str, NDArray[Any]]", camera: str, count: int) -> None:
        offsets = self._deltas.get(camera)
        times = [] if offsets is None else [len(offsets)]
        if camera not in batch:
            shape = [*([] if times == [1] else times), 3, *self._mixture.sizes[camera]]
            batch[camera] = np.zeros((count, *shape), np.uint8)
            batch[f"{camera}{_PAD}"] = np.ones((count, *times), bool)
        elif camera in self._mixture.partial_cameras:
            batch.setdefault(f"{camera}{_PAD}", np.zeros((count, *times), bool))


class PolicyMixture(Mixture):
    """Samples of several datasets, as `LeRobotDataset` gives those of one.

    A sample has the entries of a LeRobot sample; `index` and `episode_index` are numbered through all sources, `source`
    is a source's number. What a sample lacks is zero, and its `*_is_pad` flags are set, in LeRobot's own form:

    - `action`, `action_is_pad` of episodes that are not labelled;
    - `observation.state`, and a flag `observation.state_is_pad` where some samples lack it;
    - where there are several action spaces, the others' numbers in `action` and `observation.state`; see `SPACE_FLAGS`;
    - pictures of a camera that the source does not have, and `<camera>_is_pad` where some sources lack it.

    Pictures are uint8 `[3, H, W]`, those of all sources at `PolicySources.sizes`.

    Args:
        sources: The mixture.
        config: LeRobot's configuration of the policy, which says what belongs to a sample.
        episodes: Episodes of each source that samples are of.
        selections: What a filter leaves of each source; empty without a filter.
        cache: off: decode at every access; ram, disk: from a frame store, made now if need be.
        opening: `limit_gb`, `root`, `announce` and `progress` of the cache; see `open_readers`.

    Raises:
        UserError: Nothing is left of the episodes, or the cache would be too large.
    """

    def __init__(
        self,
        sources: PolicySources,
        config: Any,
        episodes: Sequence[list[int]],
        *,
        selections: Sequence[Selection] = (),
        cache: Literal["off", "ram", "disk"] = "off",
        opening: Mapping[str, Any] | None = None,
    ) -> None:
        drop_last = getattr(config, "drop_n_last_frames", 0)
        left: Sequence[Selection | None] = selections or [None] * len(episodes)
        parts = [
            _SourceSamples(n, sources, kept, drop_last, selection)
            for n, (kept, selection) in enumerate(zip(episodes, left, strict=True))
        ]
        super().__init__(parts, [s.weight for s in sources.sources])
        self._parts: Sequence[_SourceSamples] = parts
        for part in parts:
            if not len(part.starts) and (drop_last or selections):
                raise UserError(
                    f"no frame of {part.source.info.repo_id} is left to train on",
                    where=f"{part.source.where}, model.drop_n_last_frames, data.filter",
                    fix="use longer episodes, or a smaller drop_n_last_frames",
                )
        self.tasks = list(dict.fromkeys(task for s in sources.sources for task in read_tasks(s.info)))
        deltas = _deltas(sources, config)
        wanted = [
            FramesWanted(p.table, p.source.own_name(c), sources.sizes[c], list(kept))
            for p, kept in zip(parts, episodes, strict=True)
            for c in p.cameras
        ]
        readers = iter(open_readers(wanted, cache=cache, **{**_NOTHING, **(opening or {})}))
        numbers = {task: number for number, task in enumerate(self.tasks)}
        for part, kept in zip(parts, episodes, strict=True):
            mine = {camera: next(readers) for camera in part.cameras}
            part.open(mine, list(kept), deltas, numbers)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        batch = super().__getitems__(positions)
        batch["task"] = [self.tasks[i] if i < len(self.tasks) else "" for i in batch[_TASK].tolist()]
        return batch


class LoopSamples(Dataset[Batch]):
    """A mixture as LeRobot's loop takes a dataset: sample by sample, which it stacks itself.

    Args:
        samples: The mixture's.
        meta: Its metadata.
        image_transforms: Applied to the frames of every camera of a sample, as LeRobot's own dataset does.
    """

    episodes = absolute_to_relative_idx = None

    def __init__(
        self, samples: PolicyMixture, meta: MixtureMetadata, image_transforms: Transforms | None = None
    ) -> None:
        self._samples, self.meta, self._transforms = samples, meta, image_transforms
        self.num_frames, self.num_episodes = len(samples), meta.total_episodes

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Batch]:
        batch = self._samples.__getitems__(positions)
        samples = [{name: values[i] for name, values in batch.items()} for i in range(len(positions))]
        if self._transforms is not None:
            for sample in samples:
                sample.update({camera: self._transforms(sample[camera]) for camera in self.meta.camera_keys})
        return samples


_NOTHING: dict[str, Any] = {"root": None, "limit_gb": 50.0, "announce": _log.warning, "progress": None}


def _deltas(sources: PolicySources, config: Any) -> dict[str, list[int]]:
    """Offsets in frames, by feature, of what belongs to a sample, by LeRobot's own rule."""
    from lerobot.datasets.factory import resolve_delta_timestamps
    from lerobot.datasets.feature_utils import get_delta_indices

    stamps = resolve_delta_timestamps(config, MixtureMetadata(sources))
    return {} if stamps is None else get_delta_indices(stamps, sources.info.fps)
