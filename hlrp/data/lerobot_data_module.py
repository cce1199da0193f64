"""Lightning's view of a LeRobotDataset: LeRobot's samples in LeRobot's order, decoded once if asked."""

import copy
import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hlrp.compat import mend_metadata
from hlrp.config import FilterSection, LightningRun
from hlrp.data.columns import read_columns, read_tasks
from hlrp.data.dataset_info import TOLERANCE_S, check_episodes, check_resumed, read_dataset, require_training_features
from hlrp.data.decode import frame_size
from hlrp.data.episodes import check_camera, read_episodes, split_episodes
from hlrp.data.filtering import Selection, select_for_policy
from hlrp.data.policy_samples import GatheredSamples, HeldOutSampler, PolicySampler, Sample, episode_order
from hlrp.data.readers import FrameReader, FramesWanted, open_readers
from hlrp.errors import UserError

_log = logging.getLogger("hlrp.data")
_PREFETCH = 4  # LeRobot's own
_LIGHTNING_SEED = "PL_GLOBAL_SEED"


class LeRobotDataModule(LightningDataModule):
    """A dataset for policies: the samples, statistics, order and held-out episodes of LeRobot's own training.

    With ``cache="off"`` items are read through `LeRobotDataset`; otherwise frames come from a `FrameStore` and all else
    from memory, which gives the same samples bit for bit, and many times faster.
    Batches hold pictures as uint8 (float32 where a dataset keeps PNGs and nothing is cached), `action`, `*_is_pad`,
    `task`, `index` and every other feature.

    Which frames and actions belong to a sample depends on the policy: `for_policy` comes before the loaders, and
    `LeRobotPolicyAdapter` calls it. Worker processes are forked; with a cache there are none unless asked for.

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
        image_transforms: Applied to training frames, uint8 `[C, H, W]` or `[T, C, H, W]`.
        video_backend: Decoder without a cache: pyav, or torchcodec, which is LeRobot's own; none: pyav.
        frame_filter: Frames at which no training sample begins; none: all are used.
        max_val_samples: Most held-out samples, spread evenly over all of them; none: all.
        cache_root: Where frame stores live; none: in the platform's cache folder.
        cache_limit_gb: Most that may have to be decoded into the cache.
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
        image_transforms: Callable[[Tensor], Tensor] | None = None,
        video_backend: str | None = None,
        frame_filter: FilterSection | None = None,
        max_val_samples: int | None = None,
        cache_root: Path | None = None,
        cache_limit_gb: float = 50.0,
        tolerance_s: float = TOLERANCE_S,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        folder = Path(root) if root is not None else None
        self.info = read_dataset(repo_id, folder, tolerance_s=tolerance_s)
        require_training_features(self.info)
        check_episodes(self.info, episodes)
        self.episodes, self.eval_split = episodes, eval_split
        self.batch_size, self.cache = batch_size, cache
        self.cameras = [check_camera(self.info, c) for c in cameras] if cameras else self.info.cameras
        self._seed, self._video_backend = seed, video_backend
        self._image_transforms = image_transforms
        self.num_workers = num_workers if num_workers is not None else (2 if cache == "off" else 0)
        self._max_val, self._limit_gb = max_val_samples, cache_limit_gb
        self._opening: dict[str, Any] = {"root": cache_root, "announce": announce, "progress": progress}
        self.train_episodes, self.val_episodes = split_episodes(self.info, eval_split, episodes=episodes)
        self.frame_filter = frame_filter or FilterSection()
        self._selections: list[Selection] | None = None
        self._meta: Any = None
        self._policy: Any = None
        self._train: Dataset[Sample] | None = None
        self._val: Dataset[Sample] | None = None

    @classmethod
    def from_run(
        cls, run: LightningRun, *, announce: Callable[[str], None] = _log.warning, **opening: Any
    ) -> "LeRobotDataModule":
        """The data of a run's configuration; ``opening`` may be `cache_root` and `progress`.

        Raises:
            UserError: Also for a mixture of datasets.
        """
        data, trainer = run.data, run.trainer
        if data.sources:
            raise UserError(
                "a LeRobot policy is trained on one dataset",
                where="data.sources",
                fix="give data.root or data.repo_id",
            )
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
        }
        trainer = {"batch_size": self.batch_size, "eval_split": self.eval_split}
        if self._seed is not None:
            trainer["seed"] = self._seed
        return {"data": data, "trainer": trainer}

    @property
    def seed(self) -> int:
        """Start of the order: this module's own seed, or the one that Lightning was seeded with."""
        return self._seed if self._seed is not None else int(os.environ.get(_LIGHTNING_SEED, "1000"))

    @property
    def meta(self) -> Any:
        """LeRobot's metadata; the statistics of cameras are ImageNet's, as LeRobot's training sets them."""
        if self._meta is None:
            from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
            from lerobot.utils.constants import IMAGENET_STATS

            meta = LeRobotDatasetMetadata(self.info.repo_id, root=self.info.root)
            mend_metadata(meta)
            usual = {name: torch.tensor(value, dtype=torch.float32) for name, value in IMAGENET_STATS.items()}
            for key in set(meta.camera_keys) - set(meta.depth_keys):
                meta.stats[key] |= usual
            self._meta = meta
        return self._meta

    def for_policy(self, config: Any) -> None:
        """Read the samples that a policy needs, given LeRobot's configuration of it; a second call does nothing.

        Raises:
            UserError: The cache would be too large, or cannot hold this dataset.
        """
        if self._policy is config:
            return
        from lerobot.datasets.factory import resolve_delta_timestamps

        self._policy = config
        stamps = resolve_delta_timestamps(config, self.meta)
        self._train, self._val = self._cached(stamps) if self.cache != "off" else self._direct(stamps)

    def _direct(self, stamps: dict[str, list[float]] | None) -> tuple[Dataset[Sample], Dataset[Sample] | None]:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        from hlrp.data.lerobot_reader import show_one_picture

        def read(episodes: list[int] | None, transforms: Any) -> Any:
            dataset = LeRobotDataset(
                self.info.repo_id,
                root=self.info.root,
                episodes=episodes,
                delta_timestamps=stamps,
                image_transforms=transforms,
                tolerance_s=self.info.tolerance_s,
                video_backend=self._video_backend or "pyav",
                return_uint8=True,
            )
            mend_metadata(dataset.meta)
            return show_one_picture(dataset, self._video_backend)

        everything = self.episodes is None and not self.val_episodes
        train = read(None if everything else self.train_episodes, self._image_transforms)
        return train, read(self.val_episodes, None) if self.val_episodes else None

    def _cached(self, stamps: dict[str, list[float]] | None) -> tuple[Dataset[Sample], Dataset[Sample] | None]:
        from lerobot.datasets.feature_utils import check_delta_timestamps, get_delta_indices

        if self.meta.has_language_columns or self.meta.depth_keys:
            raise UserError(
                "this dataset has depth or language columns, which only LeRobot's own reader knows",
                where="data.cache",
                fix="use data.cache=off",
            )
        if self._video_backend not in (None, "pyav"):
            raise UserError(
                f"frames are decoded into the cache through PyAV, not {self._video_backend!r}",
                where="data.video_backend",
                fix="leave it out, or use data.cache=off",
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
            image_transforms=self._image_transforms,
        )
        val = copy.copy(train)
        val.image_transforms = None
        return train, val

    def _readers(self) -> list[FrameReader]:
        table, episodes = read_episodes(self.info), sorted({*self.train_episodes, *self.val_episodes})
        wanted = [FramesWanted(table, camera, frame_size(self.info, camera), episodes) for camera in self.cameras]
        return open_readers(wanted, cache=self.cache, limit_gb=self._limit_gb, **self._opening)

    def selections(self) -> list[Selection]:
        """What the filter leaves of the training frames, measured now if need be; empty without a filter."""
        if self._selections is None:
            prepare = self._readers if self.cache == "disk" else None
            chosen = (self.frame_filter, self.info, self.train_episodes, self.cameras)
            self._selections = select_for_policy(*chosen, prepare=prepare, **self._opening)
        return self._selections

    def _samples(self) -> Dataset[Sample]:
        if self._train is None:
            raise UserError(
                "these data do not know the policy yet",
                where="LeRobotDataModule",
                fix="train a LeRobotPolicyAdapter with them, or call for_policy(config) before the loaders",
            )
        return self._train

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def train_sampler(self) -> PolicySampler:
        """LeRobot's order for this process.

        Raises:
            UserError: The policy is not known, or leaves no frame to train on.
        """
        samples, kept, table = self._samples(), self.selections(), read_episodes(self.info)
        order = episode_order(
            table,
            self.train_episodes,
            drop_last=getattr(self._policy, "drop_n_last_frames", 0),
            seed=self.seed,
            relative=getattr(samples, "absolute_to_relative_idx", None),
            keep=kept[0].keep if kept else None,
        )
        rank, world_size = self._place()
        return PolicySampler(order, self.batch_size, rank=rank, world_size=world_size)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Training batches."""
        # LeRobot's loader draws its seed from the generator that the model goes on to use, once, when training begins.
        seed = int(torch.empty((), dtype=torch.int64).random_())
        return self._loader(self._samples(), self.train_sampler(), seed)

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Held-out batches in order; none if nothing is held out."""
        self._samples()
        if self._val is None or not self.val_episodes:
            return []
        relative = getattr(self._val, "absolute_to_relative_idx", None)
        frames = read_episodes(self.info).frame_indices(self.val_episodes).tolist()
        count = min(len(frames), self._max_val or len(frames))
        chosen = [frames[i * len(frames) // count] for i in range(count)]
        rank, world_size = self._place()
        positions = chosen if relative is None else [relative[i] for i in chosen]
        sampler = HeldOutSampler(positions, self.batch_size, rank=rank, world_size=world_size)
        return self._loader(self._val, sampler, self.seed)

    def _loader(self, samples: Dataset[Sample], sampler: Any, seed: int) -> DataLoader[Sample]:
        from lerobot.utils.collate import lerobot_collate_fn

        workers = self.num_workers
        forked = workers > 0 and "fork" in multiprocessing.get_all_start_methods()
        collate: Any = GatheredSamples.collate if isinstance(samples, GatheredSamples) else None
        if self.meta.has_language_columns:
            collate = lerobot_collate_fn
        return DataLoader(
            samples,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="fork" if forked else None,
            persistent_workers=workers > 0,
            prefetch_factor=_PREFETCH if workers else None,
            generator=torch.Generator().manual_seed(seed % 2**63),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        order = self.train_sampler().signature() if self._train else {}
        return {"fingerprints": [self.info.fingerprint()], "filter": [s.mark for s in self.selections()], **order}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Check that the data are those of the run that is resumed.

        Raises:
            UserError: Naming both sides of what differs.
        """
        first = {"fingerprints": [state_dict["fingerprint"]]} if "fingerprint" in state_dict else {}  # as 0.1 saved it
        check_resumed({**state_dict, **first}, self.state_dict(), [self.info])
