"""Loading a policy to serve it, and what its clients are told of it."""

import contextlib
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import hlrp
from hlrp.data.dataset_info import feature_names, read_dataset
from hlrp.deploy.observations import Input, ObservationReader
from hlrp.devices import choose_device
from hlrp.errors import UserError
from hlrp.evaluation.plan import dataset_roots, find_run
from hlrp.evaluation.policy import (
    LoadedPolicy,
    effective_rename_map,
    load_policy,
    policy_config,
    saved_device,
    weights_sha256,
)
from hlrp.runs import checkpoint_step, resolve_pretrained
from hlrp.runtime.manifest import Manifest, is_export

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
    """

    loaded: LoadedPolicy
    reader: ObservationReader
    metadata: dict[str, Any]

    def example(self) -> dict[str, Any]:
        """A message that fits: black pictures, zeros, and an instruction."""
        dtypes = {"uint8": np.uint8, "float32": np.float32}
        observation = self.metadata["observation"].items()
        return {name: np.zeros(said["shape"], dtypes[said["dtype"]]) for name, said in observation} | {
            "prompt": self.reader.example_prompt
        }


def load_served(
    path: Path, *, device: str | None = None, rename: dict[str, str] | None = None, task: str | None = None
) -> Served:
    """Load a policy with its processors, and say what it takes.

    Args:
        path: Run, checkpoint or `pretrained_model` folder.
        device: Torch device; the checkpoint's, or the best, if not given.
        rename: A client's observation key to the policy's, in place of the checkpoint's own.
        task: The instruction of observations that have none.

    Raises:
        UserError: There is no such policy, or it cannot be loaded here.
    """
    from lerobot.utils.import_utils import register_third_party_plugins

    pretrained = resolve_pretrained(path.absolute())
    register_third_party_plugins()
    config = policy_config(pretrained, choose_device(device, saved=saved_device(pretrained)))
    names = effective_rename_map(pretrained, rename or {})
    _check_rename(config, rename or {})
    loaded = load_policy(config, None, names, bool(rename))
    manifest = Manifest.read(pretrained) if is_export(pretrained) else None
    language = getattr(config, "use_language", False) or any(hasattr(s, "task_key") for s in loaded.preprocessor.steps)
    if manifest is not None:
        language = manifest.reads_language
    if task is not None and not language:
        loaded.warnings.append(f"policy {config.type!r} is not known to read instructions: --task may have no effect")
    resizes = hasattr(config, _BACKBONE_SIZE) or any(getattr(config, name, None) is not None for name in _SIZES)
    known = manifest.check_task(task) if manifest is not None else None
    # The graphs of an export take pictures of one size.
    resizes = resizes and manifest is None
    reader = ObservationReader(_inputs(config), names, resizes=resizes, language=language, task=task, known=known)
    return Served(loaded, reader, _metadata(pretrained, config, reader, resizes=resizes, language=language, task=task))


def _check_rename(config: Any, rename: dict[str, str]) -> None:
    unknown = sorted(set(rename.values()) - set(config.input_features or {}))
    if unknown:
        raise UserError(
            f"the policy has no input {unknown[0]!r}",
            where="--rename-map",
            fix=f"it has {', '.join(config.input_features or {})}",
        )


def _inputs(config: Any) -> dict[str, Input]:
    return {
        name: Input(tuple(feature.shape), feature.type.value == "VISUAL", "empty_camera" in name)
        for name, feature in (config.input_features or {}).items()
    }


def _metadata(
    pretrained: Path, config: Any, reader: ObservationReader, *, resizes: bool, language: bool, task: str | None
) -> dict[str, Any]:
    observation: dict[str, Any] = {}
    for name, wanted in _inputs(config).items():
        if wanted.optional:
            continue
        if wanted.picture:
            channels, height, width = wanted.shape
            said = {"dtype": "uint8", "shape": [height, width, channels], "resized": resizes}
        else:
            said = {"dtype": "float32", "shape": list(wanted.shape)}
        observation[reader.names[name]] = said
    action = list(config.output_features["action"].shape)
    run = find_run(pretrained)
    recorded = run.manifest.dataset if run else None
    source = {
        "step": checkpoint_step(pretrained.parent),
        "weights_sha256": weights_sha256(pretrained),
        "dataset_fingerprint": recorded.fingerprint if recorded else None,
    }
    fps, names = names_and_rate(pretrained, action[0])
    if is_export(pretrained):
        manifest = Manifest.read(pretrained)
        source, fps, names = manifest.source, manifest.fps, manifest.action_names
    chunk = getattr(config, "chunk_size", None) or getattr(config, "horizon", None) or 1
    return {
        "policy": config.type,
        "observation": observation,
        "prompt": "unused" if not language else "needed" if task is None else "optional",
        "action": {"dtype": "float32", "shape": action, "names": names},
        "chunk_size": int(chunk),
        "n_action_steps": int(getattr(config, "n_action_steps", 1)),
        "n_obs_steps": int(getattr(config, "n_obs_steps", 1)),
        "fps": fps,
        "run": source,
        "device": str(config.device),
        "versions": {"hlrp": hlrp.__version__, "lerobot": metadata.version("lerobot")},
    }


def names_and_rate(pretrained: Path, actions: int) -> tuple[float | None, list[str] | None]:
    """Frames per second and the names of the actions, as far as the run or its data, where it is here, say them."""
    run = find_run(pretrained)
    fps, names = (run.manifest.dataset.fps if run else None), None
    for root in dataset_roots(pretrained, run)[:1]:
        # A policy is served as well where its data has been damaged since.
        with contextlib.suppress(UserError):
            info = read_dataset(None, root)
            fps, names = fps or info.fps, feature_names(info.features.get("action", {}), actions)
    if names is None:
        saved = json.loads((pretrained / "config.json").read_text(encoding="utf8")).get("action_feature_names")
        names = feature_names({"names": saved}, actions)
    return fps, names
