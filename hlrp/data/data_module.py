"""Lightning's view of frame windows: training and held-out loaders of a run."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from hlrp.config import LightningRun, SourceSection, require_dataset
from hlrp.data.augmentation import DrawnOrder, augmented, blank_frame, check_transforms, image_transforms
from hlrp.data.batch_loader import batch_loader
from hlrp.data.dataset_info import check_episodes, check_resumed, named_episodes, read_dataset
from hlrp.data.episodes import check_camera, check_camera_names, code_offset, read_episodes, split_episodes
from hlrp.data.filtering import Selection, View, select_frames
from hlrp.data.mixture import Batch, Mixture
from hlrp.data.sampler import ResumableSampler
from hlrp.data.shuffling import SHUFFLING, Shuffling
from hlrp.data.windows import FrameWindows, WindowSource
from hlrp.errors import UserError

_log = logging.getLogger("hlrp.data")


class Spread(Subset[Batch]):
    """Samples at given positions, read a batch at a time."""

    def __init__(self, windows: Mixture, positions: list[int]) -> None:
        super().__init__(windows, positions)

    def __getitems__(self, indices: list[int]) -> Any:
        return self.dataset.__getitems__([self.indices[i] for i in indices])  # type: ignore[attr-defined]


class FrameDataModule(LightningDataModule):
    """Windows of frames for a run: loaders whose batches are those of `FrameWindows`, uint8 until the device.

    Episodes are held out per source by `split_episodes` (LeRobot's own rule, `trainer.eval_split`), so a run of either
    trainer holds out the same ones. Loaders are ordered by `ResumableSampler`, which mixes sources by weight and starts
    anywhere in an epoch; Lightning's own distributed sampler must be off (`use_distributed_sampler=False`).

    With `data.image_transforms` all frames of a training sample are transformed alike, those of held-out ones never.

    Worker processes are forked: nothing is imported again, and the frame store is shared with them, not copied. With a
    cache there are none unless `data.num_workers` is given.

    Args:
        run: The run; `data` and `trainer` are read.
        size: Height and width of the frames, or one number for a square; none: as recorded.
        offset_seconds: Time between frames where the run does not say it.
        cameras: Features to read from every source; none: the only one there is.
        with_actions: Whether batches carry `action_sum` and `has_action`.
        labelled_episodes: Episodes whose actions may be used, of a run with one dataset; those of `data.sources` name
            their own. None: all.
        labelled_share: Share of a source's samples that comes from its labelled episodes; none: as many as there are.
        max_val_windows: Held-out windows per validation, spread evenly over all of them.
        cache_root: Where frame stores live; none: in the platform's cache folder.
        cache_limit_gb: Most decoded frames in the cache; see `open_readers`.
        announce: Given a sentence before frames are decoded into the cache.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: The run names no dataset, one that cannot be read, or no offset.
    """

    def __init__(
        self,
        run: LightningRun,
        *,
        size: int | tuple[int, int] | None = None,
        offset_seconds: float | None = None,
        cameras: list[str] | None = None,
        with_actions: bool = False,
        labelled_episodes: list[int] | None = None,
        labelled_share: float | None = None,
        max_val_windows: int = 2048,
        cache_root: Path | None = None,
        cache_limit_gb: float = 50.0,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        require_dataset(run)
        offset = run.data.offset_seconds or offset_seconds
        if offset is None:
            raise UserError(
                "the time between the frames of a window is not given",
                where="data.offset_seconds",
                fix="set it, e.g. data.offset_seconds=0.1",
            )
        self.run, self._max_val_windows = run, max_val_windows
        self._options: dict[str, Any] = {
            "num_frames": run.data.num_frames or 2,
            "offset_seconds": offset,
            "size": size,
            "cache": run.data.cache,
            "with_actions": with_actions,
            "cache_root": cache_root,
            "cache_limit_gb": cache_limit_gb,
            "announce": announce,
            "progress": progress,
        }
        self.train_sources, self.val_sources = self._split(run, cameras, labelled_episodes)
        if labelled_share is not None:
            self.train_sources = [part for s in self.train_sources for part in _by_label(s, labelled_share)]
        for source in self.train_sources:
            _check_fits(source, run.data.num_frames or 2, offset)
        self._transforms = image_transforms(run.data.image_transforms)
        if self._transforms is not None:
            check_transforms(self._transforms, self._blank_frames(size))
        self.shuffling: Shuffling = SHUFFLING
        self._together = run.data.streaming_files
        self._selections: list[Selection] | None = None
        self.train_windows: Mixture | None = None
        self.val_windows: Mixture | None = None

    @property
    def frame_keys(self) -> tuple[str, ...]:
        """Entries of a sample that hold what the model sees."""
        return ("frames",)

    def _blank_frames(self, size: int | tuple[int, int] | None) -> dict[str, torch.Tensor]:
        """A frame of every camera that is read, as `data.image_transforms` is given it."""
        found: dict[str, torch.Tensor] = {}
        for source in self.train_sources:
            for camera in source.cameras or [check_camera(source.info, None)]:
                found[camera] = blank_frame(source.info.features[camera], size)
        return found

    @staticmethod
    def _split(
        run: LightningRun, cameras: list[str] | None, labelled: list[int] | None
    ) -> tuple[list[WindowSource], list[WindowSource]]:
        data = run.data
        sections = data.sources or [SourceSection(repo_id=data.repo_id, root=data.root, labelled_episodes=labelled)]
        train, val = [], []
        for section in sections:
            info = read_dataset(section.repo_id, section.root, **data.reading)
            kept, held_out = split_episodes(info, run.trainer.eval_split, episodes=data.episodes)
            asked = check_camera_names(cameras, info.cameras, f"data.cameras, dataset {info.root}") if cameras else None
            shared: dict[str, Any] = {
                "cameras": asked,
                "weight": section.weight,
                "labelled_episodes": named_episodes(section.labelled_episodes, info),
            }
            train.append(WindowSource(info, kept, **shared))
            if held_out:
                val.append(WindowSource(info, held_out, **shared))
        return train, val

    def setup(self, stage: str | None = None) -> None:
        """Open the windows, decoding them into the cache if the run asks for one; a second call does nothing."""
        if self.train_windows is None and stage in ("fit", None):
            sources, selections = self.train_sources, self.selections()
            if selections:
                sources = [replace(s, keep=part.keep) for s, part in zip(sources, selections, strict=True)]
            self.train_windows = self.open_windows(sources)
        if self.val_windows is None and self.val_sources:
            self.val_windows = self.open_windows(self.val_sources)

    def selections(self) -> list[Selection]:
        """What the filter leaves of each training source, measured now if need be; empty without a filter.

        Raises:
            UserError: It leaves nothing of one of them.
        """
        section = self.run.data.filter
        if self._selections is None:
            told = {name: self._options[name] for name in ("announce", "progress")}
            self._selections = [
                select_frames(
                    section,
                    source.info,
                    source.episodes if source.episodes is not None else range(source.info.episodes),
                    self._view(source),
                    **told,
                )
                for source in (self.train_sources if section.given else [])
            ]
        return self._selections

    def _view(self, source: WindowSource) -> View:
        """The pictures by whose motion the windows of a source are judged: those that the model reads."""
        return View(
            self.filtered_cameras(source),
            self.filtered_size,
            self._options["offset_seconds"],
            self._options["cache_root"],
            (lambda: self.open_windows(self.train_sources)) if self._options["cache"] == "disk" else None,
        )

    def filtered_cameras(self, source: WindowSource) -> list[str]:
        """Cameras in whose picture something must move."""
        return source.cameras or [check_camera(source.info, None)]

    @property
    def filtered_size(self) -> int | tuple[int, int] | None:
        """Size at which motion is measured."""
        size: int | tuple[int, int] | None = self._options["size"]
        return size

    def open_windows(self, sources: list[WindowSource]) -> Mixture:
        """The samples of some sources; a subclass may give others."""
        return FrameWindows(sources, drop_invalid=True, **self._options)

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def train_sampler(self) -> ResumableSampler:
        """The order of training for this process; `setup` comes first."""
        assert self.train_windows is not None, "setup() comes before train_sampler()"
        rank, world_size = self._place()
        windows, data, files = self.train_windows, self.run.data, None
        if data.streaming and isinstance(windows, FrameWindows):
            files = windows.file_ends()
            if self._together is None:
                # Of more files than are open at a time each sample opens one again, unless decoded frames are kept.
                self._together = windows.files_together(data.cache_limit_gb if data.cache == "disk" else 0.0)
                if (wanted := windows.files_together(None)) > 2 * self._together:
                    _log.warning(
                        f"samples are drawn from {self._together} video files at a time, which are few episodes; "
                        f"data.streaming_files={wanted} draws from more, and costs speed unless data.cache=disk"
                    )
        return ResumableSampler(
            self.train_windows.lengths,
            self.run.trainer.batch_size,
            weights=self.train_windows.weights,
            seed=self.run.trainer.seed,
            rank=rank,
            world_size=world_size,
            shuffling=self.shuffling,
            pieces=files,
            together=self._together or 1,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of training windows."""
        self.setup("fit")
        assert self.train_windows is not None
        windows, order, seed = self.train_windows, self.train_sampler(), self.run.trainer.seed
        return self._loader(*augmented(windows, order, self._transforms, self.frame_keys, seed))

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Batches of held-out windows, evenly spread and always the same; none if nothing is held out."""
        self.setup("validate")
        if self.val_windows is None or len(self.val_windows) == 0:
            return []
        total = len(self.val_windows)
        count = min(total, self._max_val_windows)
        positions = [i * total // count for i in range(count)]
        rank, world_size = self._place()
        sampler = ResumableSampler(
            [count], self.run.trainer.batch_size, shuffle=False, rank=rank, world_size=world_size
        )
        return self._loader(Spread(self.val_windows, positions), sampler)

    def _workers(self) -> int:
        data = self.run.data
        # From the store, this process gathers batches faster than workers hand them over (docs/frames.md).
        unasked = "num_workers" not in data.model_fields_set
        return 0 if unasked and data.cache != "off" else data.num_workers

    def _loader(self, windows: Dataset[Batch], sampler: ResumableSampler | DrawnOrder) -> DataLoader[Batch]:
        return batch_loader(
            windows,
            sampler,
            collate=Mixture.collate,
            workers=self._workers(),
            seed=self.run.trainer.seed,
            trainer=self.trainer,
            stored=self.run.data.cache != "off",
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        prints = [source.info.fingerprint() for source in self.train_sources]
        marks = [selection.mark for selection in self.selections()]
        order = self.train_sampler().signature() if self.train_windows else {}
        return {"fingerprints": prints, "filter": marks, "shuffling": self.shuffling, **order}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Check that the data are those of the run that is resumed.

        Raises:
            UserError: Naming both sides of what differs.
        """
        self.shuffling = state_dict.get("shuffling", "drawn")
        if self.run.data.streaming_files is None and (files := state_dict.get("files")):
            self._together = files[1]  # other versions chose other numbers
        check_resumed(state_dict, self.state_dict(), [source.info for source in self.train_sources])


def _by_label(source: WindowSource, share: float) -> list[WindowSource]:
    """A source as two, its labelled episodes and the others, of which the first gives that share of the samples.

    Raises:
        UserError: A labelled episode is not there to be trained on, or has no actions.
    """
    if not source.labelled_episodes:
        return [replace(source, labelled_episodes=[])]
    kept = source.episodes if source.episodes is not None else list(range(source.info.episodes))
    check_episodes(source.info, source.labelled_episodes)
    if absent := sorted({*source.labelled_episodes} - {*kept}):
        raise UserError(
            f"labelled episode {absent[0]} of {source.info.repo_id} is not trained on: it is held out or left out",
            where="model.labelled_episodes, trainer.eval_split, data.episodes",
            fix="label another one, or train without trainer.eval_split",
        )
    if "action" not in source.info.features:
        raise UserError(
            f"{source.info.repo_id} has no actions",
            where="model.labelled_episodes",
            fix="leave labelled_episodes out: a quantizer learns from video alone",
        )
    others = sorted({*kept} - {*source.labelled_episodes})
    if not others:
        return [source]
    labelled = replace(source, episodes=sorted(source.labelled_episodes), weight=source.weight * share)
    return [labelled, replace(source, episodes=others, weight=source.weight * (1 - share))]


def _check_fits(source: WindowSource, num_frames: int, offset_seconds: float) -> None:
    """Refuse a source of whose windows not one lies whole inside an episode, and cameras that it does not have."""
    info = source.info
    for camera in source.cameras or []:
        check_camera(info, camera)
    lengths = read_episodes(info).lengths
    lengths = lengths if source.episodes is None else lengths[source.episodes]
    longest = int(lengths.max())
    step = code_offset(info, offset_seconds)
    span = (num_frames - 1) * step + 1
    if span > longest:
        raise UserError(
            f"a window of {num_frames} frames {offset_seconds:g} s apart spans {span} frames at {info.fps:g} fps, but "
            f"the longest of the {len(lengths)} episodes that are trained on has {longest}",
            where=f"data.num_frames, data.offset_seconds, dataset {info.root}",
            fix="use fewer frames, a smaller offset or longer episodes",
        )
