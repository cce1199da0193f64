"""Every touch of a LeRobot API that is private or has moved between releases. Supported: 0.6 from 0.6.1 on.

Nothing of LeRobot is imported at module level: that takes 10 to 20 s, and most commands need none of it.
"""

import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.files import fsync_folder, fsync_tree, replace_link
from hlrp.finite import FiniteLoss, require_finite_weights

SUPPORTED_LEROBOT = ">=0.6.1,<0.7"
Emit = Callable[..., None]


def lerobot_version() -> str:
    """Installed LeRobot release.

    Raises:
        UserError: LeRobot is absent or of an unsupported release.
    """
    from packaging.specifiers import SpecifierSet

    try:
        version = metadata.version("lerobot")
    except metadata.PackageNotFoundError as error:
        raise UserError(
            "LeRobot is not installed", fix="run scripts/setup.sh, or pip install 'lerobot[training]'"
        ) from error
    if not SpecifierSet(SUPPORTED_LEROBOT).contains(version, prereleases=True):
        raise UserError(
            f"LeRobot {version} is not supported; this hlrp works with {SUPPORTED_LEROBOT}",
            fix=f"pip install 'lerobot{SUPPORTED_LEROBOT}'",
        )
    return version


# What `lerobot.policies` imports wherever it is installed, and the policies that use none of it but what is named.
_OPTIONAL = ("transformers", "peft", "diffusers")
_USED: dict[str, tuple[str, ...]] = {"act": (), "vqbet": (), "tdmpc": (), "diffusion": ("diffusers",)}
_VLAS = ("smolvla", "hlrp_vla_direct", "hlrp_action_expert_latent", "hlrp_action_expert_direct")
_USED |= dict.fromkeys(_VLAS, ("transformers", "peft"))


def without_unused_packages(policy_type: str) -> None:
    """Have LeRobot, if it is not imported yet, leave out packages that this policy does not use: half of its import.

    For processes that train this one policy: others are then refused for want of the package. Not where the list of all
    policies is still to be made, which takes all packages.
    """
    import sys

    from hlrp.catalog import cached_catalog

    if policy_type not in _USED or "lerobot.policies" in sys.modules or cached_catalog() is None:
        return
    from lerobot.utils import import_utils

    for name in set(_OPTIONAL) - set(_USED[policy_type]):
        setattr(import_utils, f"_{name}_available", False)


class StopRequest:
    """Set by a signal handler, read by the training loop at the end of a step."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self, signal_number: int, _frame: object = None) -> None:
        """Signal handler: remember which signal asked to stop."""
        self.signal_number = signal_number


class StoppedAfterSaveError(Exception):
    """Raised inside LeRobot's loop once the checkpoint that a signal asked for is on disk."""


def install_training_hooks(
    emit: Emit, stop: StopRequest, preflight: Callable[[Any], None], loss: FiniteLoss
) -> Callable[[], None]:
    """Prepare `lerobot.scripts.lerobot_train` and return its `main`.

    LeRobot's loop stays as it is; what surrounds it is wrapped:

    - our run folder may exist already (LeRobot refuses any existing output folder),
    - ``preflight(cfg)`` sees the parsed configuration before anything is built,
    - a dataset's tasks stand in the order of their numbers, and cameras without statistics get an empty entry,
    - metrics leave as numbers, at full precision, instead of as text,
    - a checkpoint appears under its final name only when all of it is on disk,
    - a stop request saves a checkpoint at the end of the running step, then ends the loop,
    - a loss that is no number for many steps, and weights that are none when they are to be saved, end it too,
    - on resume the random state is restored right before the first update, so that what the data loader drew
      from it in between does not shift dropout and noise; and the data go on in the epoch they had reached.

    Args:
        emit: Called as ``emit(event, **fields)``; only on the main process does it write.
        stop: Read at the end of every step.
        preflight: May raise UserError.
        loss: Sees the loss of every step.
    """
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.scripts import lerobot_train

    _mend_metadata(LeRobotDatasetMetadata)
    _accept_existing_folder(TrainPipelineConfig, emit, preflight)
    _report_metrics(lerobot_train, emit, loss)
    _save_atomically(lerobot_train, emit, stop)
    _restore_random_state(lerobot_train)
    _restore_epoch(lerobot_train)
    return lerobot_train.main


def _accept_existing_folder(config_class: Any, emit: Emit, preflight: Callable[[Any], None]) -> None:
    original = config_class.validate

    def validate(self: Any) -> None:
        output_dir, self.output_dir = self.output_dir, None
        try:
            original(self)
        except (ValueError, TypeError, OSError) as error:
            raise UserError(f"LeRobot refuses this configuration: {error}", fix="change the named setting") from error
        self.output_dir = output_dir or self.output_dir
        preflight(self)
        emit("accepted")

    config_class.validate = validate


def _mend_metadata(metadata_class: Any) -> None:
    load = metadata_class._load_metadata

    def load_metadata(self: Any) -> None:
        load(self)
        mend_metadata(self)

    metadata_class._load_metadata = load_metadata


def mend_metadata(meta: Any) -> None:
    """Change what LeRobot has read of a dataset so that its own code does with it what it means to.

    It takes the row of a task's number where it should look the number up, and writes ImageNet's statistics into the
    entry of each camera, which must be there.

    Args:
        meta: LeRobot's metadata of a dataset; changed in place.
    """
    if meta.tasks is not None and meta.tasks["task_index"].tolist() != list(range(len(meta.tasks))):
        numbers = meta.tasks["task_index"]
        rows = meta.tasks.reset_index().set_index("task_index").reindex(range(int(numbers.max()) + 1))
        rows["task"] = rows["task"].fillna("")
        meta.tasks = rows.reset_index().set_index("task")
    meta.stats = meta.stats or {}
    for camera in set(meta.camera_keys) - set(meta.depth_keys):
        meta.stats.setdefault(camera, {})


_EVAL_LOSS = re.compile(r"^step (\d+): eval_loss=([-+.\deEnaif]+)$")


def _report_metrics(script: Any, emit: Emit, loss: FiniteLoss) -> None:
    """Turn LeRobot's log records into events: its tracker passes through `logging` as an object, not as text."""
    tracker_class = script.MetricsTracker
    make_record = logging.getLogRecordFactory()

    def record_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if isinstance(record.msg, tracker_class):
            emit("metrics", **record.msg.to_dict())
        elif isinstance(record.msg, str) and (match := _EVAL_LOSS.match(record.msg)):
            emit("eval_loss", steps=int(match[1]), eval_loss=float(match[2]))
        elif record.msg == "Suite %s aggregated: %s" and isinstance(record.args, tuple) and record.args[0] == "overall":
            totals: Any = record.args[1]
            emit("rollouts", **{k: v for k, v in totals.items() if isinstance(v, int | float)})
        return record

    logging.setLogRecordFactory(record_factory)
    count_step = tracker_class.step

    def step(self: Any) -> None:
        count_step(self)
        emit("step", steps=self.steps)
        # LeRobot has read it from the device.
        loss.see(self.steps, math.isfinite(self.metrics["loss"].val))

    tracker_class.step = step


def _save_atomically(script: Any, emit: Emit, stop: StopRequest) -> None:
    save, due = script.save_checkpoint, script.should_save_checkpoint

    def should_save_checkpoint(*args: Any, **kwargs: Any) -> bool:
        return stop.signal_number is not None or due(*args, **kwargs)

    def save_checkpoint(*, checkpoint_dir: Path, **kwargs: Any) -> None:
        require_finite_weights(kwargs["policy"], kwargs["step"])
        partial = checkpoint_dir.with_name(f".{checkpoint_dir.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            save(checkpoint_dir=partial, **kwargs)
            fsync_tree(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(checkpoint_dir, ignore_errors=True)
        partial.replace(checkpoint_dir)
        fsync_folder(checkpoint_dir.parent)

    def update_last_checkpoint(checkpoint_dir: Path) -> Path:
        # LeRobot unlinks `last` and makes it anew: a kill in between leaves none. A rename has no in-between.
        last = checkpoint_dir.parent / "last"
        replace_link(last, checkpoint_dir.name)
        emit("checkpoint", name=checkpoint_dir.name)
        if stop.signal_number is not None:
            raise StoppedAfterSaveError
        return last

    script.save_checkpoint = save_checkpoint
    script.should_save_checkpoint = should_save_checkpoint
    script.update_last_checkpoint = update_last_checkpoint


def _restore_random_state(script: Any) -> None:
    load, update = script.load_training_state, script.update_policy

    def load_training_state(checkpoint_dir: Path, *args: Any, **kwargs: Any) -> Any:
        from lerobot.utils.random_utils import load_rng_state

        def first_update(*update_args: Any, **update_kwargs: Any) -> Any:
            load_rng_state(Path(checkpoint_dir) / "training_state")
            script.update_policy = update
            return update(*update_args, **update_kwargs)

        script.update_policy = first_update
        return load(checkpoint_dir, *args, **kwargs)

    script.load_training_state = load_training_state


def _restore_epoch(script: Any) -> None:
    """Keep the sampler's epoch on resume.

    LeRobot puts the sampler at the right epoch and sample; then Accelerate, whose own count starts at 0 in every
    process, sets the epoch back, and a run resumed after its first epoch repeats that epoch's order.
    """
    sampler_class = script.EpisodeAwareSampler

    class ResumedSampler(sampler_class):  # type: ignore[misc, valid-type]
        _resumed_epoch = 0

        def load_state_dict(self, state: dict[str, int]) -> None:
            super().load_state_dict(state)
            self._resumed_epoch = state["epoch"]

        def set_epoch(self, epoch: int) -> None:
            super().set_epoch(self._resumed_epoch + epoch)

    script.EpisodeAwareSampler = ResumedSampler


def check_policy_values(name: str, fields: dict[str, Any]) -> Any:
    """Build the policy's configuration class from ``fields``.

    LeRobot's argument parser does so too, but keeps the reason of a refusal to itself.

    Returns:
        LeRobot's configuration of the policy, on the CPU unless ``fields`` name a device.

    Raises:
        UserError: With the reason the class gives.
    """
    import draccus
    import lerobot.policies  # noqa: F401 - importing registers LeRobot's own policies
    from lerobot.configs.policies import PreTrainedConfig

    config_class = PreTrainedConfig.get_choice_class(name)
    try:
        return draccus.decode(config_class, {"device": "cpu", **fields})
    except Exception as error:
        reason: BaseException = error
        while reason.__cause__ or reason.__context__:
            reason = reason.__cause__ or reason.__context__ or reason
        raise UserError(
            f"policy {name!r} refuses its settings: {' '.join(str(reason).split())}",
            where=f"model ({', '.join(fields)})",
            fix=f"`hlrp policies {name}` lists its fields and defaults",
        ) from error


def check_policy_features(cfg: Any) -> None:
    """Check that the dataset has what the policy needs, before frames are read or weights made.

    Args:
        cfg: LeRobot's `TrainPipelineConfig` after validation.

    Raises:
        UserError: The dataset lacks a feature of a pretrained policy, or the policy's own check refuses it.
    """
    from lerobot.datasets import LeRobotDatasetMetadata
    from lerobot.utils.feature_utils import dataset_to_policy_features

    if cfg.policy is None:
        return
    meta = LeRobotDatasetMetadata(cfg.dataset.repo_id, root=cfg.dataset.root, revision=cfg.dataset.revision)
    bare = sorted(c for c in meta.camera_keys if not (meta.stats or {}).get(c) and c not in meta.depth_keys)
    if bare and not cfg.dataset.use_imagenet_stats:
        raise UserError(
            f"the dataset has no statistics of {', '.join(bare)}, and ImageNet's are not to be used",
            where="trainer.lerobot_args: dataset.use_imagenet_stats",
            fix="leave the setting out, or use a dataset with statistics of its pictures",
        )
    features = dataset_to_policy_features(meta.features)
    if not cfg.resume:  # a resumed run keeps the statistics of its checkpoint
        check_normalisation(cfg.policy, features, meta.stats, str(meta.root / "meta" / "stats.json"))
    check_features(cfg.policy, features, cfg.rename_map, f"dataset {cfg.dataset.root or cfg.dataset.repo_id}")


_NORMALISED_BY = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}


def check_normalisation(policy: Any, features: dict[str, Any], stats: Any, where: str) -> None:
    """Check that actions and state can be normalised as the policy does it; LeRobot finds out at the first batch.

    Args:
        policy: LeRobot's configuration of the policy.
        features: LeRobot's `PolicyFeature` by name, of a dataset.
        stats: Statistics of the dataset: feature to name to numbers.
        where: Names their file in errors.

    Raises:
        UserError: A statistic is missing, or two quantiles are the same though the numbers differ: LeRobot divides by
            1e-8 then.
    """
    import numpy as np

    for key, feature in features.items():
        mode = getattr(policy.normalization_mapping.get(feature.type.value), "value", None)
        if feature.type.value not in ("ACTION", "STATE", "ENV") or mode not in _NORMALISED_BY:
            continue
        names, found = _NORMALISED_BY[mode], (stats or {}).get(key) or {}
        absent = [name for name in names if name not in found]
        if absent:
            raise UserError(
                f"policy {policy.type!r} normalises {key!r} by {names[0]} and {names[1]}, but its statistics have no "
                f"{' and '.join(absent)}",
                where=where,
                fix="compute the statistics again: lerobot-edit-dataset --operation.type recompute_stats",
            )
        low, high = (np.asarray(found[name], np.float64).reshape(-1) for name in names)
        spread = np.asarray(found.get("max", high)).reshape(-1) > np.asarray(found.get("min", low)).reshape(-1)
        same = np.flatnonzero((low == high) & spread & mode.startswith("QUANTILE"))
        if len(same):
            raise UserError(
                f"policy {policy.type!r} normalises {key!r} by quantiles, and {names[0]} and {names[1]} of dimension "
                f"{int(same[0])} are the same ({low[same[0]]:.4g}) though its numbers differ: they would reach 1e8",
                where=where,
                fix=f"set model.normalization_mapping, such as MEAN_STD for {feature.type.value}",
            )


def check_features(policy: Any, features: dict[str, Any], rename_map: dict[str, str], where: str) -> None:
    """Check that ``features`` are what the policy needs.

    Args:
        policy: LeRobot's configuration of the policy; not changed.
        features: LeRobot's `PolicyFeature` by name, of a dataset.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        where: Names the dataset in errors.

    Raises:
        UserError: A feature of a pretrained policy is missing or of another shape, or the policy's own check refuses.
    """
    import copy

    from lerobot.configs import FeatureType

    have = ", ".join(sorted(features))
    policy = copy.deepcopy(policy)
    policy.output_features = {k: f for k, f in features.items() if f.type is FeatureType.ACTION}
    if policy.input_features:
        renamed = {rename_map.get(k, k) for k in features}
        missing = sorted(set(policy.input_features) - renamed)
        if missing:
            raise UserError(
                f"the pretrained policy needs {', '.join(missing)}, which the dataset does not have (it has {have})",
                where=where,
                fix="use data with these features, or name them with data.rename_map",
            )
    else:
        policy.input_features = {k: f for k, f in features.items() if k not in policy.output_features}
    try:
        policy.validate_features()
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"policy {policy.type!r} cannot use this dataset (it has {have}): {error}",
            where=where,
            fix="use a dataset with the features the policy needs",
        ) from error


def offline_backbone(policy: Any) -> str | None:
    """Drop pretrained torchvision weights that are not in the local cache, and say so.

    Args:
        policy: A LeRobot policy configuration; changed in place.

    Returns:
        A warning for the user, or None when nothing had to change.
    """
    name = getattr(policy, "pretrained_backbone_weights", None)
    if not name:
        return None
    if policy.pretrained_path:
        # The checkpoint's own weights replace whatever the backbone would start from.
        policy.pretrained_backbone_weights = None
        return None
    import torch
    import torchvision

    try:
        weights = torchvision.models.get_weight(name)
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"torchvision has no weights {name!r}: {error}",
            where="model.pretrained_backbone_weights",
            fix="name torchvision weights, or null",
        ) from error
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if cached.is_file():
        return None
    policy.pretrained_backbone_weights = None
    return (
        f"{name} is not in the local cache ({cached.parent}); the image backbone starts from random weights. "
        "Give --allow-download to fetch it, or model.pretrained_backbone_weights=null to ask for this."
    )


@contextmanager
def complete_weights(folder: Path) -> Iterator[None]:
    """Inside, weights that lack tensors of a policy, or hold others, are a UserError: LeRobot would only log them."""
    from lerobot.policies import pretrained

    original = pretrained.log_model_loading_keys

    def refuse(missing: list[str], unexpected: list[str]) -> None:
        if missing or unexpected:
            raise UserError(
                f"the weights do not fit the policy: {_named(missing)} are missing, {_named(unexpected)} are unknown",
                where=str(folder / "model.safetensors"),
                fix="give the settings that the checkpoint was trained with, or one written by this LeRobot",
            )

    pretrained.log_model_loading_keys = refuse
    try:
        yield
    finally:
        pretrained.log_model_loading_keys = original


def _named(keys: list[str]) -> str:
    names = sorted(keys)
    return f"{len(names)} tensors" + (f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "")


@contextmanager
def evaluation_without_bars() -> Iterator[None]:
    """LeRobot's rollout draws its own bars, whatever tqdm is told, unless it believes to run inside Slurm."""
    from lerobot.scripts import lerobot_eval

    original = lerobot_eval.inside_slurm
    lerobot_eval.inside_slurm = lambda: True
    try:
        yield
    finally:
        lerobot_eval.inside_slurm = original


def lazy_async_envs() -> Any:
    """LeRobot's (private) vector environment whose processes start on first use."""
    from lerobot.envs.utils import _LazyAsyncVectorEnv

    return _LazyAsyncVectorEnv
