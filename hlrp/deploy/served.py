"""Loading a policy to serve it, and what its clients are told of it."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import hlrp
from hlrp.camera_names import cameras_among
from hlrp.data.dataset_info import DatasetInfo, feature_names, read_dataset
from hlrp.deploy.observations import Input, ObservationReader
from hlrp.devices import choose_device
from hlrp.errors import UserError
from hlrp.evaluation.plan import dataset_roots, find_run
from hlrp.evaluation.policy import (
    LoadedPolicy,
    acting_block,
    acting_shape,
    choose_action_space,
    effective_rename_map,
    identity_of,
    load_policy,
    policy_config,
    saved_device,
)
from hlrp.runs import DatasetRecord, RunDirectory, checkpoint_step, resolve_pretrained
from hlrp.runtime.manifest import Manifest

# Fields of configuration classes that hold the size a policy brings pictures to; None stands for no resizing.
_SIZES = ("resize_imgs_with_padding", "image_resolution", "resize_shape", "image_resize_shape")
# Where there is this one, the backbone has a resizing of its own beside it (this project's policies, GR00T, FastWAM).
_BACKBONE_SIZE = "image_size"


@dataclass(frozen=True)
class Served:
    """A policy that is to be served.

    Args:
        loaded: The policy with its processors.
        reader: What its observations have to be.
        metadata: What a client is told first.
        data: The dataset that it was trained on; None: it is not here.
    """

    loaded: LoadedPolicy
    reader: ObservationReader
    metadata: dict[str, Any]
    data: DatasetInfo | None = None

    def example(self) -> dict[str, Any]:
        """A message that fits: black pictures, zeros, and an instruction."""
        dtypes = {"uint8": np.uint8, "float32": np.float32}
        observation = self.metadata["observation"].items()
        message: dict[str, Any] = {name: np.zeros(said["shape"], dtypes[said["dtype"]]) for name, said in observation}
        return message | {"prompt": self.reader.example_prompt}


def load_served(
    path: Path,
    *,
    device: str | None = None,
    rename: dict[str, str] | None = None,
    task: str | None = None,
    dataset_root: Path | None = None,
    action_space: str | None = None,
) -> Served:
    """Load a policy with its processors, and say what it takes.

    Args:
        path: Run, checkpoint or `pretrained_model` folder.
        device: Torch device; the checkpoint's, or the best, if not given.
        rename: A client's observation key to the policy's, in place of the checkpoint's own.
        task: The instruction of observations that have none; None: an export's only one.
        dataset_root: The data that it was trained on; None: where its run says.
        action_space: The one to act in, of a policy that knows several; None: its own choice.

    Raises:
        UserError: There is no such policy or action space, it cannot be loaded here, or it was trained on other data.
    """
    from lerobot.utils.import_utils import register_third_party_plugins

    pretrained = resolve_pretrained(path.absolute())
    run = find_run(pretrained)
    register_third_party_plugins()
    config = policy_config(pretrained, choose_device(device, saved=saved_device(pretrained)))
    choose_action_space(config, action_space)
    data = data_of(config, run, dataset_root)
    names = effective_rename_map(pretrained, rename or {})
    _check_rename(config, rename or {})
    loaded = load_policy(config, None, names, bool(rename))
    manifest = Manifest.find(pretrained)
    language = getattr(config, "use_language", False) or any(hasattr(s, "task_key") for s in loaded.preprocessor.steps)
    if manifest is not None:
        language = manifest.reads_language
    if task is not None and not language:
        loaded.warnings.append(f"policy {config.type!r} is not known to read instructions: --task may have no effect")
    resizes = hasattr(config, _BACKBONE_SIZE) or any(getattr(config, name, None) is not None for name in _SIZES)
    known = None
    if manifest is not None:
        known = manifest.check_task(task)
        task = manifest.only_task if task is None else task
    # The graphs of an export take pictures of one size.
    resizes = resizes and manifest is None
    reader = ObservationReader(_inputs(config), names, resizes=resizes, language=language, task=task, known=known)
    numbers = numbers_said(loaded, data, reader.names) if manifest is None else manifest.numbers
    said = _metadata(config, reader, numbers, resizes=resizes)
    said["prompt"] = "unused" if not language else "needed" if task is None else "optional"
    said["task"] = task if language else None
    if manifest is None:
        said["fps"], said["run"] = origin_said(config, run, data)
    else:
        said["fps"], said["run"] = manifest.fps, {**manifest.source, "export": manifest.variant}
    return Served(loaded, reader, said, data)


def _check_rename(config: Any, rename: dict[str, str]) -> None:
    unknown = sorted(set(rename.values()) - set(config.input_features or {}))
    if unknown:
        raise UserError(
            f"the policy has no input {unknown[0]!r}",
            where="--rename-map",
            fix=f"it has {', '.join(config.input_features or {})}",
        )


def _inputs(config: Any) -> dict[str, Input]:
    """What it reads in the action space in which it acts."""
    # A policy of a mixture masks a camera that some sources lack, as `hlrp eval` does.
    masks = bool(getattr(config, "sources", None)) and len(cameras_among(config.input_features or {})) > 1
    found = {}
    for name, feature in (config.input_features or {}).items():
        shape, picture = acting_shape(config, name, tuple(feature.shape)), feature.type.value == "VISUAL"
        if shape != (0,):
            found[name] = Input(shape, picture, masks and picture, "empty_camera" in name)
    return found


def _metadata(
    config: Any, reader: ObservationReader, numbers: Mapping[str, Mapping[str, Any]], *, resizes: bool
) -> dict[str, Any]:
    observation: dict[str, Any] = {}
    for name, wanted in _inputs(config).items():
        if wanted.empty:
            continue
        if wanted.picture:
            channels, height, width = wanted.shape
            said = {"dtype": "uint8", "shape": [height, width, channels], "resized": resizes}
            said |= {"optional": True} if wanted.optional else {}
        else:
            said = {"dtype": "float32", "shape": list(wanted.shape), **numbers.get(name, {})}
        observation[reader.names[name]] = said
    chunk = getattr(config, "chunk_size", None) or getattr(config, "horizon", None) or 1
    shape = list(acting_shape(config, "action", tuple(config.output_features["action"].shape)))
    acting = {"action_space": config.action_space} if getattr(config, "action_space", None) else {}
    return {
        "policy": config.type,
        **acting,
        "observation": observation,
        "action": {"dtype": "float32", "shape": shape, **numbers.get("action", {})},
        "chunk_size": int(chunk),
        "n_action_steps": int(getattr(config, "n_action_steps", 1)),
        "n_obs_steps": int(getattr(config, "n_obs_steps", 1)),
        "device": str(config.device),
        "versions": {"hlrp": hlrp.__version__, "lerobot": metadata.version("lerobot")},
    }


def origin_said(config: Any, run: RunDirectory | None, data: DatasetInfo | None) -> tuple[float | None, dict[str, Any]]:
    """Frames per second of the data of a checkpoint; and its `step`, `weights_sha256` and `dataset_fingerprint`."""
    pretrained = Path(config.pretrained_path)
    source = {
        "step": checkpoint_step(pretrained.parent),
        **identity_of(pretrained),
        "dataset_fingerprint": run.manifest.dataset.fingerprint if run else None,
    }
    rates = [record.fps for record in _trained_on(config, run) if record.fps]
    return (rates[0] if rates else data.fps if data else None), source


def _trained_on(config: Any, run: RunDirectory | None) -> list[DatasetRecord]:
    """The data of a run; of a mixture those with actions of the space in which the policy acts."""
    recorded = run.manifest.dataset if run else DatasetRecord()
    told = getattr(config, "sources", None) or []
    if not recorded.sources or len(told) != len(recorded.sources):
        return [*recorded.sources] or [recorded]
    return [record for record, source in zip(recorded.sources, told, strict=True) if _acts_on(config, source)]


def _acts_on(config: Any, source: Mapping[str, Any]) -> bool:
    """Whether the actions of a source, an entry of a policy's `sources`, are those of the space in which it acts."""
    block = acting_block(config, "action")
    return block is None or list(source["action"]) == [block.start, block.stop]


def numbers_said(loaded: LoadedPolicy, data: DatasetInfo | None, given: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Of the numbers that a policy reads, and of `action`: `names`, `low` and `high`, None where they are not known.

    Args:
        loaded: The policy.
        data: What it was trained on, if it is here.
        given: The policy's names to those of the data.
    """
    config, features = loaded.config, data.features if data else {}
    said: dict[str, dict[str, Any]] = {}
    for name, wanted in _inputs(config).items():
        if not wanted.picture:
            names = feature_names(features.get(given.get(name, name), {}), wanted.shape[0])
            said[name] = {"names": names, **_limits(loaded, name)}
    size = acting_shape(config, "action", tuple(config.output_features["action"].shape))[0]
    names = feature_names(features.get("action", {}), size)
    own = feature_names({"names": getattr(config, "action_feature_names", None)}, size)
    return said | {"action": {"names": names or own, **_limits(loaded, "action")}}


def _limits(loaded: LoadedPolicy, name: str) -> dict[str, list[float] | None]:
    """`low` and `high`, the extremes of the data that a feature was normalised with; None where they are not known."""
    # The normaliser of actions and that of observations are saved with the statistics of both.
    all_stats = (getattr(step, "stats", None) or {} for step in loaded.preprocessor.steps)
    found: dict[str, Any] = next((stats[name] for stats in all_stats if stats.get(name)), {})
    for low, high in (("min", "max"), ("q01", "q99")):
        if low in found and high in found:
            limits = [[float(number) for number in np.ravel(found[key])] for key in (low, high)]
            if (block := acting_block(loaded.config, name)) is not None:
                limits = [row[block.start : block.stop] for row in limits]
            if all(math.isfinite(number) for row in limits for number in row):
                return {"low": limits[0], "high": limits[1]}
    return {"low": None, "high": None}


def data_of(config: Any, run: RunDirectory | None, root: Path | None) -> DatasetInfo | None:
    """The dataset that a policy was trained on, the first of several with actions of the space in which it acts.

    Raises:
        UserError: ``root`` is no dataset, or not the one.
    """
    records = _trained_on(config, run)
    if root is not None:
        info = read_dataset(None, root, where="--dataset-root")
        marks = [mark for record in records for mark in (record.fingerprint or "").split("+")]
        if any(marks) and not any(info.known_as(mark) for mark in marks):
            raise UserError(
                f"the policy was not trained on these data: their fingerprint is {info.fingerprint()}, "
                f"its run says {'+'.join(marks)}",
                where=f"--dataset-root {root}",
                fix="give the folder of the data that it was trained on",
            )
        return info
    own = {source["root"] for source in getattr(config, "sources", None) or [] if _acts_on(config, source)}
    own |= {record.root for record in records}
    several = acting_block(config, "action") is not None
    roots = dataset_roots(Path(config.pretrained_path), run)
    for found in [root for root in roots if not several or str(root) in own][:1]:
        # A policy is served as well where its data has been damaged since.
        with contextlib.suppress(UserError):
            return read_dataset(None, found)
    return None
