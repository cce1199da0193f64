"""What is changed of the data that LeRobot's own training loop reads, and what is checked of them before it begins.

Nothing of LeRobot is imported at module level: the worker first chooses what LeRobot is to import.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.camera_names import with_only_camera
from hlrp.compat import check_features, check_normalisation
from hlrp.config import DataSection, FilterSection
from hlrp.data.dataset_info import read_dataset
from hlrp.data.episodes import check_camera_names, read_episodes
from hlrp.data.filtering import kept_ranges, select_for_policy
from hlrp.data.shuffling import SHUFFLING, Shuffling
from hlrp.data_workers import WorkerStart, worker_context
from hlrp.errors import UserError
from hlrp.policies.build import check_rewards

if TYPE_CHECKING:
    from hlrp.data.policy_mixture import MixtureMetadata


def order_frames(script: Any, shuffling: Shuffling) -> None:
    """Have LeRobot's loop order its samples by these rules."""
    from hlrp.data.frame_order import FrameOrder

    class Order(FrameOrder):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, shuffling=shuffling, **named)

    script.EpisodeAwareSampler = Order


def read_mixture(
    script: Any,
    mixture: "Callable[[Any], MixtureMetadata]",
    frame_filter: FilterSection | None = None,
    shuffling: Shuffling = SHUFFLING,
) -> None:
    """Have LeRobot's loop train on a mixture of datasets in its weighted order.

    Args:
        script: `lerobot.scripts.lerobot_train`.
        mixture: Gives the mixture's metadata for a `TrainPipelineConfig`.
        frame_filter: Frames at which no training sample begins.
        shuffling: Which rules the order is made by.
    """
    from hlrp.data.augmentation import lerobot_transforms
    from hlrp.data.policy_mixture import LoopSamples, PolicyMixture
    from hlrp.data.sampler import MixtureOrder

    opened: list[PolicyMixture] = []

    def make_train_eval_datasets(cfg: Any) -> tuple[LoopSamples, LoopSamples | None]:
        meta = mixture(cfg)
        parts = meta.sources.split(cfg.dataset.eval_split)
        train, held_out = ([part[i] for part in parts] for i in (0, 1))
        keep = meta.sources.selections(frame_filter or FilterSection(), train)
        opened[:] = [PolicyMixture(meta.sources, cfg.trainable_config, train, selections=keep)]
        later = PolicyMixture(meta.sources, cfg.trainable_config, held_out) if any(held_out) else None
        transforms = cfg.dataset.image_transforms
        drawn = lerobot_transforms(transforms) if transforms.enable else None
        return LoopSamples(opened[0], meta, drawn), None if later is None else LoopSamples(later, meta)

    class Order(MixtureOrder):
        """LeRobot makes its sampler from boundaries of episodes; of those only the seed is of use here."""

        def __init__(self, *_: Any, seed: int, **__: Any) -> None:
            super().__init__(opened[0].lengths, opened[0].weights, seed=seed, shuffling=shuffling)

    script.make_train_eval_datasets = make_train_eval_datasets
    script.EpisodeAwareSampler = Order


def filter_samples(script: Any, data: DataSection) -> None:
    """Have LeRobot's sampler count through the ranges of frames that the filter leaves, in place of whole episodes."""
    make, sampler_class, tracker_class = (
        script.make_train_eval_datasets,
        script.EpisodeAwareSampler,
        script.MetricsTracker,
    )
    found: dict[str, Any] = {}

    def make_train_eval_datasets(cfg: Any) -> tuple[Any, Any]:
        train, held_out = make(cfg)
        found["info"] = read_dataset(
            train.repo_id, Path(train.root), tolerance_s=data.tolerance_s, video_backend=data.video_backend
        )
        return train, held_out

    class FilteredSampler(sampler_class):  # type: ignore[misc, valid-type]
        def __init__(
            self, starts: Any, ends: Any, *, episode_indices_to_use: Any, drop_n_last_frames: int = 0, **rest: Any
        ) -> None:
            info = found["info"]
            episodes = range(info.episodes) if episode_indices_to_use is None else episode_indices_to_use
            [selection] = select_for_policy(data.filter, info, episodes, data.cameras)
            kept = kept_ranges(read_episodes(info), episodes, selection.keep, drop_last=drop_n_last_frames)
            if not kept[0]:
                raise UserError(
                    f"the filter and the policy's drop_n_last_frames={drop_n_last_frames} leave no frame to train on",
                    where="data.filter",
                    fix="lower its thresholds, or use longer episodes",
                )
            super().__init__(*kept, **rest)
            found["frames"] = len(self)

    class CountingTracker(tracker_class):  # type: ignore[misc, valid-type]
        def __init__(self, batch_size: int, num_frames: int, *rest: Any, **named: Any) -> None:
            super().__init__(batch_size, found.get("frames", num_frames), *rest, **named)

    script.make_train_eval_datasets = make_train_eval_datasets
    script.EpisodeAwareSampler = FilteredSampler
    script.MetricsTracker = CountingTracker


def rename_cameras(script: Any) -> None:
    """Have statistics follow `rename_map`, without which LeRobot's loop normalises no renamed picture; and rollouts."""
    from lerobot.envs.utils import env_to_policy_features
    from lerobot.processor import RenameObservationsProcessorStep, rename_stats

    make_processors, make_env_processors = script.make_pre_post_processors, script.make_env_pre_post_processors

    def make_pre_post_processors(**asked: Any) -> Any:
        before = asked.get("preprocessor_overrides", {})
        rename = before.get("rename_observations_processor", {}).get("rename_map")
        if rename:
            if "stats" in (normalizer := before["normalizer_processor"]):
                normalizer["stats"] = rename_stats(normalizer["stats"], rename)
            if "dataset_stats" in asked:
                asked["dataset_stats"] = rename_stats(asked["dataset_stats"], rename)
        return make_processors(**asked)

    def make_env_pre_post_processors(*, env_cfg: Any, policy_cfg: Any) -> Any:
        before, after = make_env_processors(env_cfg=env_cfg, policy_cfg=policy_cfg)
        names = with_only_camera(env_to_policy_features(env_cfg), policy_cfg.input_features, {}, logging.info)
        if names:
            before.steps.append(RenameObservationsProcessorStep(rename_map=names))
        return before, after

    script.make_pre_post_processors = make_pre_post_processors
    script.make_env_pre_post_processors = make_env_pre_post_processors


def keep_workers_reading(script: Any) -> None:
    """Have the workers of LeRobot's loaders, held-out ones included, end when the training process wants them to."""
    options = script._dataloader_worker_kwargs

    def worker_options(cfg: Any) -> dict[str, Any]:
        usual: dict[str, Any] = options(cfg)
        if cfg.num_workers == 0:
            return usual
        context = worker_context(usual["multiprocessing_context"])
        return {**usual, "worker_init_fn": WorkerStart(), "multiprocessing_context": context}

    script._dataloader_worker_kwargs = worker_options


def choose_cameras(cfg: Any, cameras: list[str] | None) -> None:
    """Have a new policy see only some of the dataset's cameras, as the Lightning trainer does.

    Args:
        cfg: LeRobot's `TrainPipelineConfig` after validation; the policy's input features are filled in.
        cameras: Image features to use; None: all.

    Raises:
        UserError: The dataset has no such camera.
    """
    if cameras is None or cfg.policy is None or cfg.policy.input_features:
        return
    from lerobot.datasets import LeRobotDatasetMetadata
    from lerobot.utils.feature_utils import dataset_to_policy_features

    meta = LeRobotDatasetMetadata(cfg.dataset.repo_id, root=cfg.dataset.root, revision=cfg.dataset.revision)
    cameras = check_camera_names(cameras, meta.camera_keys, f"data.cameras, dataset {meta.root}")
    features = dataset_to_policy_features(meta.features)
    left_out = set(meta.camera_keys) - set(cameras)
    cfg.policy.input_features = {k: f for k, f in features.items() if f.type.value != "ACTION" and k not in left_out}


def check_policy_features(cfg: Any, meta: Any = None) -> None:
    """Check that the dataset has what the policy needs, before frames are read or weights made.

    Args:
        cfg: LeRobot's `TrainPipelineConfig` after validation.
        meta: Metadata of a mixture; None: those of the dataset that ``cfg`` names.

    Raises:
        UserError: The dataset lacks a feature of a pretrained policy, or the policy's own check refuses it.
    """
    from lerobot.datasets import LeRobotDatasetMetadata
    from lerobot.utils.feature_utils import dataset_to_policy_features

    if cfg.policy is None:
        return
    place = {"root": cfg.dataset.root, "revision": cfg.dataset.revision}
    meta = LeRobotDatasetMetadata(cfg.dataset.repo_id, **place) if meta is None else meta
    bare = sorted(c for c in meta.camera_keys if not (meta.stats or {}).get(c) and c not in meta.depth_keys)
    if bare and not cfg.dataset.use_imagenet_stats:
        raise UserError(
            f"the dataset has no statistics of {', '.join(bare)}, and ImageNet's are not to be used",
            where="trainer.lerobot_args: dataset.use_imagenet_stats",
            fix="leave the setting out, or use a dataset with statistics of its pictures",
        )
    if cfg.dataset.image_transforms.enable and not cfg.resume:
        from hlrp.data.augmentation import blank_frame, check_transforms, lerobot_transforms

        colour = [c for c in meta.camera_keys if c not in meta.depth_keys]
        frames = {c: blank_frame(meta.features[c], uncached=True) for c in colour}
        check_transforms(lerobot_transforms(cfg.dataset.image_transforms), frames)
    where = f"dataset {cfg.dataset.root or cfg.dataset.repo_id}"
    check_rewards(cfg.policy, meta.features, where)
    features = dataset_to_policy_features(meta.features)
    if not cfg.resume:  # a resumed run keeps the statistics of its checkpoint
        check_normalisation(cfg.policy, features, meta.stats, str(meta.root / "meta" / "stats.json"))
    check_features(cfg.policy, features, cfg.rename_map, where)
