"""A foundation model on disk: weights, manifest and the backbone's own files in one folder, loaded strictly.

model.safetensors   all weights, adapters merged; of tied weights one copy
manifest.json       what they are
backbone/           configuration, tokenizer and processor of the backbone, without weights
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from hlrp import __version__
from hlrp.errors import UserError
from hlrp.files import write_bytes, write_text
from hlrp.foundation.backends.interfaces import VLABackend
from hlrp.foundation.backends.registry import backend_class
from hlrp.foundation.config import BackendConfig
from hlrp.foundation.trainable import merged_state
from hlrp.laq.checkpoint import MANIFEST, WEIGHTS, LAQSource, check_state, whole_model
from hlrp.latents.spec import Difference, describe
from hlrp.latents.table import sha256_of
from hlrp.runs.kinds import refuse_other

BACKBONE = "backbone"
SCHEMA_VERSION = 1
_KIND = "foundation"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneRecord(_Frozen):
    """Where the backbone came from."""

    name: str
    """As it was asked for: a name, a folder, or `tiny`."""
    config_sha256: str
    """SHA-256 of its `config.json`."""
    pretrained: bool
    """Whether it came with trained weights."""


class LabelStatistics(_Frozen):
    """What the training data were like."""

    code_counts: list[list[int]]
    """How often each of K codes was the label at each of P positions."""
    vector_mean: list[float] | None = None
    """Mean of the continuous latents, one per width, over positions; None in mode `codes`."""
    vector_std: list[float] | None = None
    state_mean: list[float] | None = None
    """With which the state is standardised before the model sees it; None without state."""
    state_std: list[float] | None = None


class FoundationManifest(_Frozen):
    """What a foundation model is, beside its weights."""

    schema_version: int
    kind: str
    hlrp_version: str
    config: BackendConfig
    backbone: BackboneRecord
    backbone_files: dict[str, str]
    """SHA-256 of each file in `backbone/`."""
    statistics: LabelStatistics
    instructions: list[str]
    """Distinct instructions that it was trained on."""
    sources: tuple[LAQSource, ...]
    step: int
    """Optimizer steps of training."""
    weights_sha256: str


def record_backbone(name: str, folder: Path) -> BackboneRecord:
    """What is to be remembered of the backbone in ``folder``."""
    return BackboneRecord(name=name, config_sha256=sha256_of(folder / "config.json"), pretrained=name != "tiny")


def save(
    backend: VLABackend,
    folder: Path,
    *,
    backbone: BackboneRecord,
    statistics: LabelStatistics,
    instructions: Sequence[str] = (),
    sources: Sequence[LAQSource] = (),
    step: int = 0,
) -> FoundationManifest:
    """Write a backend into ``folder``, which is made if missing.

    Args:
        backend: What is saved; adapters are added to its weights.
        folder: Where to.
        backbone: Where its backbone came from.
        statistics: Of the training data.
        instructions: Distinct instructions that it was trained on.
        sources: Datasets that it was trained on.
        step: Optimizer steps of training.
    """
    from safetensors.torch import save as to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    backend.save_backbone(folder / BACKBONE)
    unique, _ = split_tied(merged_state(backend))
    content = to_bytes({name: value.detach().cpu().contiguous() for name, value in unique.items()})
    write_bytes(folder / WEIGHTS, content)
    manifest = FoundationManifest(
        schema_version=SCHEMA_VERSION,
        kind=_KIND,
        hlrp_version=__version__,
        config=backend.config,
        backbone=backbone,
        backbone_files=_hashes(folder / BACKBONE),
        statistics=statistics,
        instructions=list(instructions),
        sources=tuple(sources),
        step=step,
        weights_sha256=hashlib.sha256(content).hexdigest(),
    )
    # Last: a manifest is never beside files that it does not describe without a hash telling.
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def split_tied(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Divide weights into those to be stored and, for each that is the same tensor as a stored one, that one's name."""
    first: dict[tuple[Any, ...], str] = {}
    unique, tied = {}, {}
    for name in sorted(state):
        value = state[name]
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (name,)
        owner = first.setdefault(key, name)
        if owner == name:
            unique[name] = value
        else:
            tied[name] = owner
    return unique, tied


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in files}


def find_model(path: Path) -> Path:
    """The folder of the model that ``path`` means: itself, a checkpoint's, or a run's newest whole checkpoint's.

    Raises:
        UserError: There is no foundation model.
    """
    refuse_other(path, "a foundation model", str(path))
    folder, broken = whole_model(path)
    if folder is None:
        raise UserError(
            f"{path} holds no foundation model" + (f" that is whole ({'; '.join(broken)})" if broken else ""),
            where=str(path),
            fix="give a run of `hlrp train --model foundation`, or a folder with model.safetensors and manifest.json",
        )
    return folder


def read_manifest(path: Path) -> FoundationManifest:
    """Read the manifest of a model folder, a checkpoint folder or a run folder.

    Raises:
        UserError: There is none, it cannot be read, or it is of another kind or schema.
    """
    place = find_model(path) / MANIFEST
    try:
        raw = json.loads(place.read_text(encoding="utf8"))
        version, kind = raw["schema_version"], raw["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the manifest of the foundation model cannot be read: {error!r}", where=str(place), fix="use another one"
        ) from error
    if kind != _KIND or version != SCHEMA_VERSION:
        raise UserError(
            f"the manifest says kind {kind!r}, schema {version!r}; "
            f"this version reads {_KIND!r}, schema {SCHEMA_VERSION}",
            where=str(place),
            fix="give a foundation model, and load it with the version that wrote it",
        )
    try:
        return FoundationManifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the manifest is not valid at {'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=str(place),
            fix="use another checkpoint",
        ) from error


def load_backend(path: Path, device: torch.device | str = "cpu") -> tuple[VLABackend, FoundationManifest]:
    """Rebuild the backend that ``path`` holds, in evaluation mode, from that folder alone.

    Args:
        path: A model folder, a checkpoint or a run.
        device: Where to put it.

    Returns:
        The backend and its manifest.

    Raises:
        UserError: No model there, or its files do not fit together; both sides are named.
    """
    folder = find_model(path)
    manifest = read_manifest(folder)
    _check_files(folder, manifest)
    backend = backend_class(manifest.config.backend).from_backbone(manifest.config, folder / BACKBONE, weights=False)
    load_weights(backend, folder, manifest)
    return backend.to(device).eval(), manifest


def _check_files(folder: Path, manifest: FoundationManifest) -> None:
    there = _hashes(folder / BACKBONE)
    wrong = sorted(name for name in manifest.backbone_files if manifest.backbone_files[name] != there.get(name))
    if wrong:
        name = wrong[0]
        here = f"SHA-256 {there[name][:16]}..." if name in there else "missing"
        raise UserError(
            f"{BACKBONE}/{name} is {here}, the manifest says {manifest.backbone_files[name][:16]}...",
            where=str(folder),
            fix="the files are not of one checkpoint; use another one",
        )


def load_weights(backend: VLABackend, folder: Path, manifest: FoundationManifest) -> None:
    """Load the weights of a checkpoint into a backend of the same configuration.

    Raises:
        UserError: They are not those that the manifest describes, or do not fit name by name and shape by shape.
    """
    from safetensors.torch import load as from_bytes

    content = (folder / WEIGHTS).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.weights_sha256:
        raise UserError(
            f"{WEIGHTS} has SHA-256 {digest[:16]}..., the manifest says {manifest.weights_sha256[:16]}...",
            where=str(folder),
            fix="the two files are not of one checkpoint; use another one",
        )
    stored = from_bytes(content)
    expected, tied = split_tied(backend.state_dict())
    check_state(stored, expected, str(folder / WEIGHTS))
    backend.load_state_dict(stored | {name: stored[owner] for name, owner in tied.items()}, strict=True)


def check_same_model(manifest: FoundationManifest, wanted: BackendConfig, backbone: BackboneRecord | None) -> None:
    """Check that a checkpoint is what a run would build.

    Args:
        manifest: The checkpoint's.
        wanted: The run's configuration. Its cameras, image size and text length may differ: no weight depends on them.
        backbone: The backbone that the run names; None if it names none.

    Raises:
        UserError: Naming both sides of everything that differs.
    """
    there = manifest.config
    pairs = [
        Difference("backend", there.backend, wanted.backend),
        Difference("mode", there.mode.value, wanted.mode.value),
        Difference("state width", there.state_dim, wanted.state_dim),
        Difference("language layers", there.layers, wanted.layers),
    ]
    differ = [*(p for p in pairs if p.here != p.asked), *there.spec.differences(wanted.spec)]
    if backbone is not None and backbone.config_sha256 != manifest.backbone.config_sha256:
        ours, asked = (f"{b.name} ({b.config_sha256[:12]})" for b in (manifest.backbone, backbone))
        differ.append(Difference("backbone", ours, asked))
    if differ:
        raise UserError(
            f"the foundation checkpoint does not fit: {describe(differ, 'the checkpoint', 'the run asks for')}",
            where="model.init_from",
            fix="use labels and settings of the checkpoint, or train from the backbone without --init-from",
        )
