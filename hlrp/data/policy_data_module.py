"""What Lightning's data for policies have in common, and those of a mixture: LeRobot's order and loaders."""

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from hlrp.config import FilterSection, LightningRun
from hlrp.data.augmentation import (
    Transforms,
    augmented,
    blank_frame,
    check_transforms,
    image_transforms,
    transforms_section,
)
from hlrp.data.batch_loader import batch_loader
from hlrp.data.dataset_info import DatasetInfo, check_resumed
from hlrp.data.filtering import Selection
from hlrp.data.policy_mixture import MixtureMetadata, PolicyMixture
from hlrp.data.policy_samples import GatheredSamples, HeldOutSampler, PolicySampler, Sample
from hlrp.data.sampler import MixtureOrder
from hlrp.data.shuffling import SHUFFLING, Shuffling
from hlrp.errors import UserError

if TYPE_CHECKING:
    from hlrp.data.frame_order import FrameOrder
    from hlrp.data.policy_sources import PolicySources

_log = logging.getLogger("hlrp.data")
_PREFETCH = 4  # LeRobot's own


class PolicyDataModule(LightningDataModule):
    """Base of the data that policies are trained on.

    Which frames and actions belong to a sample depends on the policy: `for_policy` comes before the loaders, and
    `LeRobotPolicyAdapter` calls it. Worker processes are forked; with a cache there are none unless asked for.

    Args:
        batch_size: Samples of a batch of one process.
        cache: off, ram or disk: where decoded frames are kept.
        num_workers: Processes that read; none: 2, or 0 with a cache.
        eval_split: Share of the episodes of every task that is held out, by LeRobot's rule.
        seed: Of the order; none: the trainer's.
        image_transforms: Applied to training frames, uint8 `[C, H, W]` or `[T, C, H, W]`, whatever it draws from
            PyTorch's generator depending on seed, epoch and sample alone.
        frame_filter: Frames at which no training sample begins; none: all are used.
        max_val_samples: Most held-out samples, spread evenly over all of them; none: all.
    """

    cameras: list[str]
    """Image features that the policy sees."""

    def __init__(
        self,
        *,
        batch_size: int,
        cache: Literal["off", "ram", "disk"],
        num_workers: int | None,
        eval_split: float,
        seed: int | None,
        image_transforms: Transforms | None = None,
        frame_filter: FilterSection | None = None,
        max_val_samples: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self.cache, self.eval_split = batch_size, cache, eval_split
        self.num_workers = num_workers if num_workers is not None else (2 if cache == "off" else 0)
        self._seed, self._max_val = seed, max_val_samples
        self._image_transforms = image_transforms
        self.frame_filter = frame_filter or FilterSection()
        self.shuffling: Shuffling = SHUFFLING
        self._selections: list[Selection] | None = None
        self._policy: Any = None
        self._train: Dataset[Sample] | None = None
        self._val: Dataset[Sample] | None = None

    @property
    @abstractmethod
    def meta(self) -> Any:
        """LeRobot's metadata, or what stands for it."""

    @property
    @abstractmethod
    def infos(self) -> Sequence[DatasetInfo]:
        """The datasets."""

    @abstractmethod
    def open_samples(self, config: Any) -> tuple[Dataset[Sample], Dataset[Sample] | None]:
        """Training and held-out samples of a policy with this configuration."""

    @abstractmethod
    def order(self) -> "FrameOrder | MixtureOrder":
        """The order of training samples, over all processes."""

    @abstractmethod
    def measure(self) -> list[Selection]:
        """What the filter leaves of the training frames of each dataset; empty without a filter."""

    def selections(self) -> list[Selection]:
        """What the filter leaves of the training frames of each dataset, measured now if need be; empty without one."""
        if self._selections is None:
            self._selections = self.measure()
        return self._selections

    @abstractmethod
    def held_out(self) -> Sequence[int]:
        """Positions of all held-out samples."""

    @property
    def seed(self) -> int:
        """Start of the order: this module's own seed, or the one that Lightning was seeded with."""
        return self._seed if self._seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "1000"))

    def for_policy(self, config: Any) -> None:
        """Read the samples that a policy needs; a second call with the same policy does nothing.

        Args:
            config: LeRobot's configuration of the policy.

        Raises:
            UserError: The cache would be too large, or cannot hold this dataset.
        """
        if self._policy is not config:
            self._policy = config
            self._train, self._val = self.open_samples(config)

    def undescribed(self) -> list[str]:
        """Arguments that were given and that `describe` cannot say."""
        unnamed = self._image_transforms is not None and transforms_section(self._image_transforms) is None
        return ["image_transforms"] * unnamed + ["max_val_samples"] * (self._max_val is not None)

    def _samples(self) -> Dataset[Sample]:
        if self._train is None:
            raise UserError(
                "these data do not know the policy yet",
                where=type(self).__name__,
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
        self._samples()
        rank, world_size = self._place()
        return PolicySampler(self.order(), self.batch_size, rank=rank, world_size=world_size)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Training batches."""
        # LeRobot's loader draws its seed from the generator that the model goes on to use, once, when training begins.
        seed = int(torch.empty((), dtype=torch.int64).random_())
        keys = [camera for camera in self.cameras if camera not in self.meta.depth_keys]
        samples, order = self._samples(), self.train_sampler()
        return self._loader(*augmented(samples, order, self._image_transforms, keys, self.seed), seed)

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Held-out batches in order; none if nothing is held out."""
        self._samples()
        if self._val is None:
            return []
        positions = self.held_out()
        count = min(len(positions), self._max_val or len(positions))
        rank, world_size = self._place()
        chosen = [positions[i * len(positions) // count] for i in range(count)]
        sampler = HeldOutSampler(chosen, self.batch_size, rank=rank, world_size=world_size)
        return self._loader(self._val, sampler, self.seed)

    def _loader(self, samples: Dataset[Sample], sampler: Any, seed: int) -> DataLoader[Sample]:
        from lerobot.utils.collate import lerobot_collate_fn

        return batch_loader(
            samples,
            sampler,
            collate=lerobot_collate_fn if self.meta.has_language_columns else GatheredSamples.collate,
            workers=self.num_workers,
            seed=seed,
            trainer=self.trainer,
            stored=self.cache != "off",
            prefetch=_PREFETCH,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        prints, marks = [i.fingerprint() for i in self.infos], [s.mark for s in self.selections()]
        order = self.train_sampler().signature() if self._train else {}
        return {"fingerprints": prints, "filter": marks, "shuffling": self.shuffling, **order}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Check that the data are those of the run that is resumed.

        Raises:
            UserError: Naming both sides of what differs.
        """
        self.shuffling = state_dict.get("shuffling", "drawn")
        first = {"fingerprints": [state_dict["fingerprint"]]} if "fingerprint" in state_dict else {}  # as 0.1 saved it
        check_resumed({**state_dict, **first}, self.state_dict(), self.infos)


class MixtureDataModule(PolicyDataModule):
    """A mixture of datasets for policies: the same samples, in the same order, as in LeRobot's loop.

    Args:
        sources: The mixture.
        batch_size: Samples of a batch of one process.
        cache: off, ram or disk: where decoded frames are kept.
        num_workers: Processes that read; none: 2, or 0 with a cache.
        eval_split: Share of the episodes of every task of every source that is held out, by LeRobot's rule.
        seed: Of the order; none: the trainer's.
        image_transforms: Applied to training frames, uint8 `[C, H, W]` or `[T, C, H, W]`.
        frame_filter: Frames at which no training sample begins; none: all are used.
        max_val_samples: Most held-out samples, spread evenly over all of them; none: all.
        cache_root: Where frame stores live; none: in the platform's cache folder.
        cache_limit_gb: Most decoded frames in the cache; see `open_readers`.
        announce: Given a sentence before frames are decoded into the cache.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: Nothing, or no action, would be left to train on.
    """

    def __init__(
        self,
        sources: "PolicySources",
        *,
        batch_size: int = 8,
        cache: Literal["off", "ram", "disk"] = "off",
        num_workers: int | None = None,
        eval_split: float = 0.0,
        seed: int | None = None,
        image_transforms: Transforms | None = None,
        frame_filter: FilterSection | None = None,
        max_val_samples: int | None = None,
        cache_root: Path | None = None,
        cache_limit_gb: float = 50.0,
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
        self.sources, self.cameras = sources, sources.cameras
        self.parts = sources.split(eval_split)
        if image_transforms is not None:
            frames = {camera: blank_frame(sources.info.features[camera]) for camera in self.cameras}
            check_transforms(image_transforms, frames)
        self._opening: dict[str, Any] = {"root": cache_root, "limit_gb": cache_limit_gb}
        self._opening |= {"announce": announce, "progress": progress}
        self._meta = MixtureMetadata(sources)

    @classmethod
    def from_run(
        cls,
        run: LightningRun,
        sources: "PolicySources",
        *,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
    ) -> "MixtureDataModule":
        """The data of a run's configuration, whose mixture is ``sources``."""
        data, trainer = run.data, run.trainer
        return cls(
            sources,
            batch_size=trainer.batch_size,
            cache=data.cache,
            num_workers=data.num_workers if "num_workers" in data.model_fields_set else None,
            eval_split=trainer.eval_split,
            seed=trainer.seed,
            image_transforms=image_transforms(data.image_transforms),
            frame_filter=data.filter,
            cache_limit_gb=data.cache_limit_gb,
            announce=announce,
            progress=progress,
        )

    def describe(self) -> dict[str, dict[str, Any]]:
        """The sections of a run's configuration that make these data again."""
        data = {
            "sources": [source.describe() for source in self.sources.sources],
            "cameras": self.cameras,
            "cache": self.cache,
            "num_workers": self.num_workers,
            "cache_limit_gb": self._opening["limit_gb"],
            "tolerance_s": self.infos[0].tolerance_s,
            "filter": self.frame_filter,
            "image_transforms": transforms_section(self._image_transforms),
        }
        trainer = {"batch_size": self.batch_size, "eval_split": self.eval_split}
        return {"data": data, "trainer": trainer | ({} if self._seed is None else {"seed": self._seed})}

    @property
    def meta(self) -> MixtureMetadata:
        """The mixture's metadata, in LeRobot's form."""
        return self._meta

    @property
    def infos(self) -> list[DatasetInfo]:
        """The datasets of the mixture."""
        return [source.info for source in self.sources.sources]

    def open_samples(self, config: Any) -> tuple[PolicyMixture, PolicyMixture | None]:
        """See `PolicyDataModule.open_samples`."""
        train, held_out = ([part[i] for part in self.parts] for i in (0, 1))
        options: dict[str, Any] = {"cache": self.cache, "opening": self._opening}
        samples = PolicyMixture(self.sources, config, train, selections=self.selections(), **options)
        return samples, PolicyMixture(self.sources, config, held_out, **options) if any(held_out) else None

    def measure(self) -> list[Selection]:
        """See `PolicyDataModule.measure`."""
        told = {key: value for key, value in self._opening.items() if key != "limit_gb"}
        return self.sources.selections(self.frame_filter, [train for train, _ in self.parts], **told)

    def order(self) -> MixtureOrder:
        """Shares by weight, spread evenly."""
        samples = self._samples()
        assert isinstance(samples, PolicyMixture)
        return MixtureOrder(samples.lengths, samples.weights, seed=self.seed, shuffling=self.shuffling)

    def held_out(self) -> Sequence[int]:
        """All of them, source after source."""
        assert isinstance(self._val, PolicyMixture)
        return range(len(self._val))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one: the data, and each source's share of the order."""
        order = self.order() if self._train is not None else None
        shares = {} if order is None else {"lengths": order.lengths, "weights": order.weights}
        return {**super().state_dict(), **shares}
