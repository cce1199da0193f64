"""A foundation model on disk: weights, manifest and the backbone's own files in one folder, loaded strictly.

model.safetensors   all weights, adapters merged; of tied weights one copy
manifest.json       what they are
backbone/           configuration, tokenizer and processor of the backbone, without weights
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hlrp.errors import UserError
from hlrp.foundation.backends.interfaces import VLABackend
from hlrp.foundation.backends.registry import backend_class
from hlrp.foundation.config import BackendConfig
from hlrp.foundation.trainable import merged_state
from hlrp.laq.checkpoint import LAQSource
from hlrp.latents.spec import Difference, describe
from hlrp.latents.table import sha256_of
from hlrp.runs.model_folder import WEIGHTS, ModelKind, ModelManifest, Record, check_state, read_weights

BACKBONE = "backbone"


class BackboneRecord(Record):
    """Where the backbone came from."""

    name: str
    """As it was asked for: a name, a folder, or `tiny`."""
    config_sha256: str
    """SHA-256 of its `config.json`."""
    pretrained: bool
    """Whether it came with trained weights."""


class LabelStatistics(Record):
    """What the training data were like."""

    code_counts: list[list[int]]
    """How often each of K codes was the label at each of P positions."""
    vector_mean: list[float] | None = None
    """Mean of the continuous latents, one per width, over positions; None in mode `codes`."""
    vector_std: list[float] | None = None
    state_mean: list[float] | None = None
    """With which the state is standardised before the model sees it; None without state."""
    state_std: list[float] | None = None


class FoundationManifest(ModelManifest):
    """What a foundation model is, beside its weights."""

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


_MODELS = ModelKind("foundation", "foundation model", FoundationManifest, train="hlrp train --model foundation")
find_model, read_manifest = _MODELS.find, _MODELS.read_manifest


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
    folder.mkdir(parents=True, exist_ok=True)
    backend.save_backbone(folder / BACKBONE)
    unique, _ = split_tied(merged_state(backend))
    return _MODELS.write(
        folder,
        unique,
        config=backend.config,
        backbone=backbone,
        backbone_files=_hashes(folder / BACKBONE),
        statistics=statistics,
        instructions=list(instructions),
        sources=tuple(sources),
        step=step,
    )


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
    stored = read_weights(folder, manifest.weights_sha256)
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
