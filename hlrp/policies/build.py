"""From a policy's name and fields to LeRobot's policy and processors, in the order in which LeRobot's training does it.

LeRobot's own functions make everything; what is added are the checks that it leaves out or keeps to its log.
"""

import contextlib
import copy
import io
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrp import compat
from hlrp.catalog import build_catalog, cached_catalog
from hlrp.config import resolve_policy_aliases
from hlrp.errors import UserError, root_cause, suggest
from hlrp.runs import resolve_pretrained
from hlrp.runs.checkpoints import is_foundation

_LOG = logging.getLogger("hlrp.train")
# What the constructors of LeRobot's policies raise at settings that do not fit together.
_REFUSALS = (RuntimeError, ValueError, LookupError, OSError, AssertionError, TypeError, AttributeError, ArithmeticError)
_NOT_FIELDS = {
    "device": "the trainer's `device`",
    "pretrained_path": "init_from",
    "path": "init_from",
    "type": "its name",
}


@dataclass
class Built:
    """A policy ready to be trained.

    Args:
        policy: LeRobot's policy, on its device.
        preprocessor: From a batch of the dataset to what the policy takes.
        postprocessor: From the policy's actions to the robot's.
    """

    policy: Any
    preprocessor: Any
    postprocessor: Any

    @property
    def config(self) -> Any:
        """LeRobot's configuration of the policy."""
        return self.policy.config


def policy_config(
    policy_type: str,
    fields: Mapping[str, Any],
    *,
    device: str,
    init_from: Path | None = None,
    allow_download: bool = False,
) -> Any:
    """LeRobot's configuration of a policy.

    Args:
        policy_type: Name under which LeRobot or a plugin has registered it.
        fields: Fields of its configuration class, or their aliases.
        device: Torch device.
        init_from: Run, checkpoint or `pretrained_model` folder; its configuration is the start, ``fields`` replace.
            Or a foundation model, for a policy that has a field of that name.
        allow_download: Whether weights of an image backbone that are not here may be fetched.

    Raises:
        UserError: Unknown policy or field, a value that the class refuses, or a checkpoint of another policy.
    """
    for name in fields:
        if name in _NOT_FIELDS:
            raise UserError(f"{name!r} is not set among the policy's fields", fix=f"use {_NOT_FIELDS[name]}")
    values = resolve_policy_aliases(policy_type, fields)
    compat.register_policy(policy_type)
    catalog = cached_catalog() or build_catalog()
    catalog.check_fields(policy_type, {k: v for k, v in values.items() if not isinstance(v, list | dict | tuple)})
    values = {"device": device, "push_to_hub": False, **values}
    if allow_download and "allow_download" in catalog.policy(policy_type).fields:
        values["allow_download"] = True  # this policy fetches its backbone itself
    if init_from is not None and is_foundation(init_from):
        # These weights are a part of the policy's own: it takes them itself.
        if "init_from" not in catalog.policy(policy_type).fields:
            raise UserError(
                f"{init_from} holds a foundation model, from which policy {policy_type!r} cannot start",
                where="init_from",
                fix="train hlrp_action_expert_latent, hlrp_action_expert_direct or hlrp_vla_direct from it",
            )
        values["init_from"], init_from = str(init_from.absolute()), None
    if init_from is None:
        config = compat.check_policy_values(policy_type, values, given=fields)
    else:
        config = _pretrained_config(policy_type, values, init_from)
    if not allow_download and (warning := compat.offline_backbone(config)):
        _LOG.warning("%s", warning)
    return config


def _pretrained_config(policy_type: str, values: Mapping[str, Any], init_from: Path) -> Any:
    from lerobot.configs.policies import PreTrainedConfig

    folder = resolve_pretrained(init_from)
    saved = json.loads((folder / "config.json").read_text(encoding="utf8")).get("type")
    if saved != policy_type:
        raise UserError(
            f"the checkpoint holds a policy {saved!r}, not {policy_type!r}",
            where=str(folder / "config.json"),
            fix=f"train it as --policy {saved}",
        )
    given = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config = PreTrainedConfig.from_pretrained(folder, cli_overrides=given)
    except (Exception, SystemExit) as error:
        reason = said.getvalue().strip().rpartition("error: ")[2] or error
        raise UserError(
            f"the checkpoint's configuration does not fit the installed LeRobot or the given fields: {reason}",
            where=str(folder / "config.json"),
            fix=f"`hlrp policies {policy_type}` lists the fields",
        ) from error
    config.pretrained_path = folder
    return config


def check_dataset(
    config: Any,
    meta: Any,
    *,
    cameras: Iterable[str] | None = None,
    rename_map: dict[str, str] | None = None,
    resumed: bool = False,
) -> None:
    """Check that a dataset has what a policy needs, before the policy is made.

    Args:
        config: From `policy_config`; the input features of a new policy are filled in where only some cameras are used.
        meta: LeRobot's metadata of the dataset.
        cameras: Image features to use; none: all.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        resumed: The checkpoint's own statistics are used, not the dataset's.

    Raises:
        UserError: It does not, or names are to be changed for a new policy.
    """
    from lerobot.utils.feature_utils import dataset_to_policy_features

    if rename_map and not config.pretrained_path:
        raise UserError(
            "names are only changed for a pretrained policy; a new one takes the dataset's",
            where="data.rename_map",
            fix="leave it out, or give init_from",
        )
    check_rewards(config, meta.features, f"dataset {meta.root}")
    features = dataset_to_policy_features(meta.features)
    if cameras is not None:
        features = {k: f for k, f in features.items() if k not in meta.camera_keys or k in set(cameras)}
        if not config.input_features:
            config.input_features = {k: f for k, f in features.items() if f.type.value != "ACTION"}
    compat.check_features(config, features, rename_map or {}, f"dataset {meta.root}")
    if not resumed:
        compat.check_normalisation(config, features, meta.stats, f"dataset {meta.root}, meta/stats.json")


def check_rewards(config: Any, features: Iterable[str], where: str) -> None:
    """Refuse a policy that learns from rewards where the dataset has none; LeRobot asks for them at the first step.

    Args:
        config: LeRobot's configuration of the policy.
        features: Names of all features of the dataset.
        where: Names the dataset in errors.

    Raises:
        UserError: There are none.
    """
    from lerobot.utils.constants import REWARD

    if config.reward_delta_indices is not None and REWARD not in features:
        raise UserError(
            f"policy {config.type!r} learns from rewards, and the dataset has no {REWARD!r}",
            where=where,
            fix="use data with rewards, or a policy that learns from actions alone, such as act or diffusion",
        )


def build_policy(
    config: Any,
    meta: Any,
    *,
    cameras: Iterable[str] | None = None,
    rename_map: dict[str, str] | None = None,
    resumed: bool = False,
) -> Built:
    """Make the policy for a dataset, with its processors.

    Args:
        config: From `policy_config`; its features are filled in.
        meta: LeRobot's metadata of the dataset.
        cameras: Image features to use; none: all.
        rename_map: Dataset key -> the key that a pretrained policy knows it by.
        resumed: Whether the policy goes on being trained: the processors are then those of the checkpoint.

    Raises:
        UserError: The dataset does not have what the policy needs, statistics included; the weights do not fit; or a
            package is missing.
    """
    from lerobot.policies.factory import make_policy, make_pre_post_processors

    where, rename = f"dataset {meta.root}", rename_map or {}
    meta = copy.copy(meta)  # a policy with `labelled_episodes` gives it statistics of its own
    check_dataset(config, meta, cameras=cameras, rename_map=rename_map, resumed=resumed)
    folder = config.pretrained_path
    try:
        # LeRobot prints what it loads; standard output belongs to results.
        with contextlib.redirect_stdout(io.StringIO()), compat.complete_weights(Path(folder or "")):
            policy = make_policy(cfg=config, ds_meta=meta, rename_map=rename)
        processors = make_pre_post_processors(
            policy_cfg=config,
            pretrained_path=str(folder) if folder else None,
            **_processor_arguments(policy.config, meta, rename, resumed=resumed),
        )
    except ImportError as error:
        raise UserError(
            f"policy {config.type!r} needs a package that is not installed: {error}",
            where="model.policy_type",
            fix=f"`hlrp policies {config.type}` names the extra",
        ) from error
    except _REFUSALS as error:
        what = "the weights do not fit the policy" if folder else f"policy {config.type!r} cannot be made"
        raise UserError(
            f"{what}: {' '.join(str(error).split()) or type(error).__name__}",
            where=str(folder) if folder else "model",
            fix="give the settings that it was trained with" if folder else "change the setting that is named",
        ) from error
    used = {*(policy.config.input_features or {}), *(policy.config.output_features or {})}
    fix = "restore the dataset's meta/stats.json, or record again"
    check_statistics(processors, used, where=where, fix=fix)
    return Built(policy, *processors)


def _processor_arguments(config: Any, meta: Any, rename: dict[str, str], *, resumed: bool) -> dict[str, Any]:
    """What LeRobot's training passes: the dataset's statistics replace those of a checkpoint that is fine-tuned."""
    if not config.pretrained_path:
        return {"dataset_stats": meta.stats}
    from lerobot.processor import rename_stats

    norm_map = config.normalization_mapping
    # Images are renamed before they are normalised; LeRobot's training leaves the statistics under the old name.
    stats = rename_stats(meta.stats, rename)
    normalizer = {"features": {**config.input_features, **config.output_features}, "norm_map": norm_map}
    unnormalizer = {"features": config.output_features, "norm_map": norm_map}
    if not resumed:
        normalizer["stats"] = unnormalizer["stats"] = stats
    before = {
        "device_processor": {"device": str(config.device)},
        "normalizer_processor": normalizer,
        "rename_observations_processor": {"rename_map": rename},
    }
    after: dict[str, Any] = {"unnormalizer_processor": unnormalizer}
    if getattr(config, "use_relative_actions", False):
        before["relative_actions_processor"] = {
            "enabled": True,
            "exclude_joints": getattr(config, "relative_exclude_joints", []),
            "action_names": getattr(config, "action_feature_names", None),
        }
        after["absolute_actions_processor"] = {"enabled": True}
    statistics = {} if resumed else {"dataset_stats": stats}
    return {**statistics, "preprocessor_overrides": before, "postprocessor_overrides": after}


def check_statistics(processors: Iterable[Any], used: set[str], *, where: str, fix: str) -> None:
    """Refuse processors that would pass a feature through as it is for want of statistics.

    Args:
        processors: LeRobot's pre- and postprocessor of a policy.
        used: Features that the policy reads or predicts.
        where: Named in the error.
        fix: What to do about it, for the error.

    Raises:
        UserError: Naming the features.
    """
    from lerobot.configs.types import NormalizationMode
    from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

    bare = set()
    for pipeline in processors:
        for step in pipeline.steps:
            if isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
                for key, feature in step.features.items():
                    mode = step.norm_map.get(feature.type, NormalizationMode.IDENTITY)
                    if key in used and mode is not NormalizationMode.IDENTITY and not (step.stats or {}).get(key):
                        bare.add(key)
    if bare:
        raise UserError(
            f"there are no normalisation statistics for {', '.join(sorted(bare))}: raw values would be used",
            where=where,
            fix=fix,
        )


def optimizer_config(config: Any, given: Mapping[str, Any] | None) -> Any:
    """LeRobot's configuration of the optimizer: the one given as ``{type, lr, ...}``, or the policy's preset.

    Raises:
        UserError: It is none that LeRobot knows.
    """
    if given is None:
        return config.get_optimizer_preset()
    from lerobot.optim.optimizers import OptimizerConfig

    return _choice(OptimizerConfig, given, "trainer.optimizer")


def scheduler_config(config: Any, given: Mapping[str, Any] | None) -> Any:
    """The same for the learning rate's schedule; ``{type: none}`` keeps the rate constant.

    Returns:
        LeRobot's configuration, or None for a constant rate.
    """
    if given is None:
        return config.get_scheduler_preset()
    if given.get("type") == "none":
        return None
    from lerobot.optim.schedulers import LRSchedulerConfig

    return _choice(LRSchedulerConfig, given, "trainer.scheduler")


def _choice(base: Any, given: Mapping[str, Any], where: str) -> Any:
    import draccus

    known = base.get_known_choices()
    if given.get("type") not in known:
        raise UserError(
            f"unknown type {given.get('type')!r}", where=f"{where}.type", fix=suggest(str(given.get("type")), known)
        )
    try:
        return draccus.decode(base, dict(given))
    except Exception as error:
        raise UserError(
            f"LeRobot refuses these settings: {root_cause(error)}",
            where=where,
            fix="change the named one",
        ) from error
