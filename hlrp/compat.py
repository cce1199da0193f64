"""All use of LeRobot APIs that are private or have moved between releases, outside its training loop.

Supported: 0.6 from 0.6.1 on. What is changed around the loop is in `trainers.lerobot.hooks`.

Nothing of LeRobot is imported at module level: that takes 10 to 20 s, and most commands need none of it.
"""

import csv
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hlrp.camera_names import rename_pairs
from hlrp.catalog import build_catalog, cached_catalog
from hlrp.errors import UserError, root_cause

SUPPORTED_LEROBOT = ">=0.6.1,<0.7"


@cache
def distributions_of_packages() -> Mapping[str, list[str]]:
    """Which distributions each importable name is of: what `importlib.metadata.packages_distributions` gives.

    transformers and diffusers each ask for that when they are imported, and Python's own function looks whether each of
    the thirty thousand files of an environment is there: half a second of a start, and minutes from a file system of a
    cluster. This one believes the lists of files.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for distribution in metadata.distributions():
        names = set((distribution.read_text("top_level.txt") or "").split())
        if not names:
            recorded = distribution.read_text("RECORD")
            lines = csv.reader((recorded or "").splitlines())
            paths = [row[0] for row in lines if row] if recorded else [str(f) for f in distribution.files or ()]
            tops = (path.partition("/") for path in paths)
            names = {top if below else inspect.getmodulename(top) or top for top, below, _ in tops}
        for name in names:
            if "." not in name:
                found[name].append(distribution.metadata["Name"])
    return dict(found)


# Wherever LeRobot is used, this module is imported before it.
metadata.packages_distributions = distributions_of_packages


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


def lerobot_has(place: str) -> bool:
    """Whether the installed LeRobot has a file, by its place in the package; nothing is imported."""
    spec = find_spec("lerobot")
    return spec is not None and any((Path(root) / place).is_file() for root in spec.submodule_search_locations or ())


def loop_has_accelerator_arguments() -> bool:
    """Whether LeRobot's loop takes `accelerator.*` and `parallelism.*`: it then accumulates gradients and shards."""
    return lerobot_has("configs/accelerator.py")


# What `lerobot.policies` imports wherever it is installed, and the policies that use none of it but what is named.
_OPTIONAL = ("transformers", "peft", "diffusers")
_USED: dict[str, tuple[str, ...]] = {"act": (), "vqbet": (), "tdmpc": (), "diffusion": ("diffusers",)}
LANGUAGE_POLICIES = ("smolvla", "hlrp_vla_direct", "hlrp_action_expert_latent", "hlrp_action_expert_direct")
_USED |= dict.fromkeys(LANGUAGE_POLICIES, ("transformers", "peft"))


def without_unused_packages(*policy_types: str) -> None:
    """Have LeRobot, if it is not imported yet, leave out packages that these policies do not use: half of its import.

    For processes that train or run these policies alone: others are then refused for want of the package. Not where the
    list of all policies is still to be made, which takes all packages.
    """
    import sys

    if not _USED.keys() >= set(policy_types) or "lerobot.policies" in sys.modules or cached_catalog() is None:
        return
    from lerobot.utils import import_utils

    for name in set(_OPTIONAL).difference(*(_USED[policy_type] for policy_type in policy_types)):
        setattr(import_utils, f"_{name}_available", False)


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


def register_policy(name: str) -> None:
    """Have LeRobot know its own policies, and the plugins' if it is none of them.

    Raises:
        UserError: No such policy is registered.
    """
    import lerobot.policies  # noqa: F401 - importing registers LeRobot's own policies
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.utils.import_utils import register_third_party_plugins

    if name not in PreTrainedConfig.get_known_choices():
        register_third_party_plugins()
    if name not in PreTrainedConfig.get_known_choices():
        build_catalog().policy(name)


def check_policy_values(name: str, fields: dict[str, Any], *, given: Iterable[str] | None = None) -> Any:
    """Build the policy's configuration class from ``fields``.

    LeRobot's argument parser does so too, but keeps the reason of a refusal to itself.

    Args:
        name: Of the policy.
        fields: Fields of its class.
        given: Which of them a user gave, for errors; none: all.

    Returns:
        LeRobot's configuration of the policy, on the CPU unless ``fields`` name a device.

    Raises:
        UserError: With the reason the class gives.
    """
    import draccus

    register_policy(name)
    from lerobot.configs.policies import PreTrainedConfig

    config_class = PreTrainedConfig.get_choice_class(name)
    try:
        return draccus.decode(config_class, {"device": "cpu", **fields})
    except Exception as error:
        named = ", ".join(fields if given is None else given)
        raise UserError(
            f"policy {name!r} refuses its settings: {root_cause(error)}",
            where=f"model ({named})" if named else "model",
            fix=f"`hlrp policies {name}` lists its fields and defaults",
        ) from error


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
        renamed = {rename_map.get(k, k): k for k in features}
        missing = sorted(set(policy.input_features) - set(renamed))
        if missing:
            unused = [old for new, old in renamed.items() if new not in policy.input_features]
            pairs = [f"data.rename_map.{pair}" for pair in rename_pairs(unused, missing)]
            named = f", or name them: {' '.join(pairs)}" if pairs else ""
            raise UserError(
                f"the pretrained policy needs {', '.join(missing)}, which the dataset does not have (it has {have})",
                where=where,
                fix=f"use data with these features{named}",
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
