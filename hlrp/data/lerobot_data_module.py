"""Lightning's view of a LeRobotDataset: LeRobot's samples in LeRobot's order, decoded once if asked."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import Dataset

from hlrp.compat import mend_metadata
from hlrp.config import FilterSection, LightningRun, OtherRun
from hlrp.data.augmentation import Transforms, blank_frame, check_transforms, image_transforms, transforms_section
from hlrp.data.columns import read_columns, read_tasks
from hlrp.data.dataset_info import TOLERANCE_S, DatasetInfo, check_episodes, read_dataset, require_training_features
from hlrp.data.decode import frame_size
from hlrp.data.episodes import check_camera, read_episodes, split_episodes
from hlrp.data.filtering import Selection, select_for_policy
from hlrp.data.policy_data_module import PolicyDataModule
from hlrp.data.policy_samples import GatheredSamples, Sample, episode_order
from hlrp.data.readers import FrameReader, FramesWanted, open_readers
from hlrp.data.video_backends import VideoBackend
from hlrp.errors import UserError

if TYPE_CHECKING:
    from hlrp.data.frame_order import FrameOrder

_log = logging.getLogger("hlrp.data")


class LeRobotDataModule(PolicyDataModule):
    """A dataset for policies: the samples, statistics, order and held-out episodes of LeRobot's own training.

    With ``cache="off"`` items are read through `LeRobotDataset`; otherwise frames come from a `FrameStore` and all else
    from memory, which gives the same samples bit for bit, and many times faster.
    Batches hold pictures as uint8 (float32 where a dataset keeps PNGs and nothing is cached), `action`, `*_is_pad`,
    `task`, `index` and every other feature.

    Args:
        repo_id: Hub name of a dataset that is on this machine.
        root: Its folder.
        episodes: Episodes to use; none: all.
        batch_size: Samples of a batch of one process.
        cache: off, ram or disk: where decoded frames are kept.
        num_workers: Processes that read; none: 2, or 0 with a cache.
        eval_split: Share of the episodes of every task that is held out, by LeRobot's rule.
        seed: Of the order; none: the trainer's.
        cameras: Image features to use; none: all.
        image_transforms: Applied to training frames, uint8 `[C, H, W]` or `[T, C, H, W]`, whatever it draws from
            PyTorch's generator depending on seed, epoch and sample alone.
        video_backend: What decodes videos; none: PyAV.
        frame_filter: Frames at which no training sample begins; none: all are used.
        max_val_samples: Most held-out samples, spread evenly over all of them; none: all.
        cache_root: Where frame stores live; none: in the platform's cache folder.
        cache_limit_gb: Most decoded frames in the cache; see `open_readers`.
        tolerance_s: How far a frame's time in its video may lie from its time in the table.
        announce: Given a sentence before frames are decoded into the cache.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: No such dataset, camera or episode, or nothing that a policy could be trained on.
    """

    def __init__(
        self,
        repo_id: str | None = None,
        *,
        root: Path | str | None = None,
        episodes: list[int] | None = None,
        batch_size: int = 8,
        cache: Literal["off", "ram", "disk"] = "off",
        num_workers: int | None = None,
        eval_split: float = 0.0,
        seed: int | None = None,
        cameras: list[str] | None = None,
        image_transforms: Transforms | None = None,
        video_backend: VideoBackend | None = None,
        frame_filter: FilterSection | None = None,
        max_val_samples: int | None = None,
        cache_root: Path | None = None,
        cache_limit_gb: float = 50.0,
        tolerance_s: float = TOLERANCE_S,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            cache=cache,
            num_workers=num_workers,
            eval_split=eval_split,
            seed=seed,
            image_transforms=image_transforms,
            frame_filter=frame_filter,
            max_val_samples=max_val_samples,
        )
        folder = Path(root) if root is not None else None
        self.info = read_dataset(repo_id, folder, tolerance_s=tolerance_s, video_backend=video_backend)
        require_training_features(self.info)
        check_episodes(self.info, episodes)
        self.episodes = episodes
        self.cameras = [check_camera(self.info, c) for c in cameras] if cameras else self.info.cameras
        self._video_backend = video_backend
        self._limit_gb = cache_limit_gb
        if image_transforms is not None:
            frames = {c: blank_frame(self.info.features[c], uncached=cache == "off") for c in self.cameras}
            check_transforms(image_transforms, frames)
        self._opening: dict[str, Any] = {"root": cache_root, "announce": announce, "progress": progress}
        self.train_episodes, self.val_episodes = split_episodes(self.info, eval_split, episodes=episodes)
        self._meta: Any = None

    @classmethod
    def from_run(
        cls, run: LightningRun | OtherRun, *, announce: Callable[[str], None] = _log.warning, **opening: Any
    ) -> "LeRobotDataModule":
        """The data of a run that names one dataset; ``opening`` may be `cache_root` and `progress`."""
        data, trainer = run.data, run.trainer
        return cls(
            data.repo_id,
            root=data.root,
            episodes=data.episodes,
            batch_size=trainer.batch_size,
            cache=data.cache,
            num_workers=data.num_workers if "num_workers" in data.model_fields_set else None,
            eval_split=trainer.eval_split,
            seed=trainer.seed,
            cameras=data.cameras,
            image_transforms=image_transforms(data.image_transforms),
            video_backend=data.video_backend,
            frame_filter=data.filter,
            cache_limit_gb=data.cache_limit_gb,
            tolerance_s=data.tolerance_s,
            announce=announce,
            **opening,
        )

    def describe(self) -> dict[str, dict[str, Any]]:
        """The sections of a run's configuration that make these data again."""
        data = {
            "repo_id": self.info.repo_id,
            "root": self.info.root.absolute(),
            "episodes": self.episodes,
            "cache": self.cache,
            "num_workers": self.num_workers,
            "cameras": None if self.cameras == self.info.cameras else self.cameras,
            "video_backend": self._video_backend,
            "cache_limit_gb": self._limit_gb,
            "tolerance_s": self.info.tolerance_s,
            "filter": self.frame_filter,
            "image_transforms": transforms_section(self._image_transforms),
        }
        trainer = {"batch_size": self.batch_size, "eval_split": self.eval_split}
        if self._seed is not None:
            trainer["seed"] = self._seed
        return {"data": data, "trainer": trainer}

    @property
    def infos(self) -> list[DatasetInfo]:
        """The dataset."""
        return [self.info]

    @property
    def meta(self) -> Any:
        """LeRobot's metadata; the statistics of cameras are ImageNet's, as LeRobot's training sets them."""
        if self._meta is None:
            from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
            from lerobot.utils.constants import IMAGENET_STATS

            from hlrp.data.lerobot_reader import read_compactly

            read_compactly()
            meta = LeRobotDatasetMetadata(self.info.repo_id, root=self.info.root)
            mend_metadata(meta)
            usual = {name: torch.tensor(value, dtype=torch.float32) for name, value in IMAGENET_STATS.items()}
            for key in set(meta.camera_keys) - set(meta.depth_keys):
                meta.stats[key] |= usual
            self._meta = meta
        return self._meta

    def open_samples(self, config: Any) -> tuple[Dataset[Sample], Dataset[Sample] | None]:
        """See `PolicyDataModule.open_samples`."""
        from lerobot.datasets.factory import resolve_delta_timestamps

        stamps = resolve_delta_timestamps(config, self.meta)
        train, val = self._cached(stamps) if self.cache != "off" else self._direct(stamps)
        return train, val if self.val_episodes else None

    def _direct(self, stamps: dict[str, list[float]] | None) -> tuple[Dataset[Sample], Dataset[Sample] | None]:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        from hlrp.data.lerobot_reader import show_one_picture

        def read(episodes: list[int] | None) -> Any:
            dataset = LeRobotDataset(
                self.info.repo_id,
                root=self.info.root,
                episodes=episodes,
                delta_timestamps=stamps,
                tolerance_s=self.info.tolerance_s,
                video_backend=self.info.video_backend,
                return_uint8=True,
            )
            mend_metadata(dataset.meta)
            return show_one_picture(dataset, self.info.video_backend)

        everything = self.episodes is None and not self.val_episodes
        train = read(None if everything else self.train_episodes)
        return train, read(self.val_episodes) if self.val_episodes else None

    def _cached(self, stamps: dict[str, list[float]] | None) -> tuple[Dataset[Sample], Dataset[Sample] | None]:
        from lerobot.datasets.feature_utils import check_delta_timestamps, get_delta_indices

        if self.meta.has_language_columns or self.meta.depth_keys:
            raise UserError(
                "this dataset has depth or language columns, which only LeRobot's own reader knows",
                where="data.cache",
                fix="use data.cache=off",
            )
        deltas: dict[str, list[int]] = {}
        if stamps is not None:
            check_delta_timestamps(stamps, self.info.fps, self.info.tolerance_s)
            deltas = get_delta_indices(stamps, self.info.fps)
        table, readers = read_episodes(self.info), self._readers()
        other = set(self.info.cameras) - set(self.cameras)
        train = GatheredSamples(
            table,
            read_columns(self.info, [n for n in self.info.features if n not in self.info.cameras], self.episodes),
            dict(zip(self.cameras, readers, strict=True)),
            tasks=read_tasks(self.info),
            deltas={key: offsets for key, offsets in deltas.items() if key not in other},
            # LeRobot drops the time of a single decoded frame, but not that of a single picture from a table.
            single=self.meta.video_keys,
        )
        return train, train

    def _readers(self) -> list[FrameReader]:
        table, episodes = read_episodes(self.info), sorted({*self.train_episodes, *self.val_episodes})
        wanted = [FramesWanted(table, camera, frame_size(self.info, camera), episodes) for camera in self.cameras]
        return open_readers(wanted, cache=self.cache, limit_gb=self._limit_gb, **self._opening)

    def measure(self) -> list[Selection]:
        """See `PolicyDataModule.measure`."""
        prepare = self._readers if self.cache == "disk" else None
        chosen = (self.frame_filter, self.info, self.train_episodes, self.cameras)
        return select_for_policy(*chosen, prepare=prepare, **self._opening)

    def order(self) -> "FrameOrder":
        """LeRobot's own, of the frames that the filter leaves.

        Raises:
            UserError: The policy leaves no frame to train on.
        """
        samples, kept, table = self._samples(), self.selections(), read_episodes(self.info)
        return episode_order(
            table,
            self.train_episodes,
            drop_last=getattr(self._policy, "drop_n_last_frames", 0),
            seed=self.seed,
            relative=getattr(samples, "absolute_to_relative_idx", None),
            keep=kept[0].keep if kept else None,
            shuffling=self.shuffling,
        )

    def held_out(self) -> list[int]:
        """Frames of the held-out episodes."""
        relative = getattr(self._val, "absolute_to_relative_idx", None)
        frames: list[int] = read_episodes(self.info).frame_indices(self.val_episodes).tolist()
        return frames if relative is None else [relative[i] for i in frames]
