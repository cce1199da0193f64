"""A latent action quantizer on disk: its manifest, and the way to a folder and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hlrp.errors import UserError
from hlrp.laq.config import LAQConfig
from hlrp.runs.model_folder import MANIFEST, WEIGHTS, ModelKind, ModelManifest, Record, check_state, read_weights

if TYPE_CHECKING:
    from hlrp.laq.model import LAQ


class LAQSource(Record):
    """A dataset that the weights were trained on."""

    repo_id: str
    fingerprint: str
    fps: float


class LAQManifest(ModelManifest):
    """What a quantizer is, beside its weights. The fields that repeat ``config`` are for readers in other languages."""

    config: LAQConfig
    codebook_size: int
    code_seq_len: int
    num_frames: int
    image_size: tuple[int, int]
    offset_seconds: float
    cameras: tuple[str, ...]
    """Dataset keys of the images it was trained on."""
    sources: tuple[LAQSource, ...]
    step: int
    """Optimizer steps of training."""
    weights_sha256: str


_QUANTIZERS = ModelKind(
    "laq",
    "latent action quantizer",
    LAQManifest,
    train="hlrp train --trainer lightning --model laq",
    flag="--laq / latents.laq",
)
find_model = _QUANTIZERS.find
_REPEATED = ("codebook_size", "code_seq_len", "num_frames", "image_size", "offset_seconds")


def save(
    laq: "LAQ",
    folder: Path,
    *,
    cameras: Sequence[str] = (),
    sources: Sequence[LAQSource] = (),
    step: int = 0,
) -> LAQManifest:
    """Write ``laq`` into ``folder``, which is made if missing; each file appears whole or not at all.

    Args:
        laq: The model.
        folder: Where to.
        cameras: Dataset keys of the images it was trained on.
        sources: Datasets it was trained on.
        step: Optimizer steps of training.
    """
    return _QUANTIZERS.write(
        folder,
        laq.state_dict(),
        config=laq.config,
        **{name: getattr(laq.config, name) for name in _REPEATED},
        cameras=tuple(cameras),
        sources=tuple(sources),
        step=step,
    )


def read_manifest(path: Path) -> LAQManifest:
    """Read the manifest of a model folder, a checkpoint folder or a run folder.

    Raises:
        UserError: There is none, it cannot be read, or it is of another kind or schema.
    """
    manifest = _QUANTIZERS.read_manifest(path)
    for name in _REPEATED:
        if getattr(manifest, name) != getattr(manifest.config, name):
            raise UserError(
                f"the manifest contradicts itself: {name} is {getattr(manifest, name)}, "
                f"config.{name} is {getattr(manifest.config, name)}",
                where=str(find_model(path) / MANIFEST),
                fix="use another checkpoint",
            )
    return manifest


def load[Model: "LAQ"](cls: type[Model], path: Path, device: torch.device | str) -> Model:
    """Build the model that ``path`` holds, in evaluation mode; see `hlrp.laq.model.LAQ.from_checkpoint`."""
    folder = find_model(path)
    manifest = read_manifest(folder)
    stored = read_weights(folder, manifest.weights_sha256)
    model = cls(manifest.config)
    check_state(stored, model.state_dict(), str(folder / WEIGHTS))
    model.load_state_dict(stored, strict=True)
    model.manifest = manifest
    return model.to(device).eval()
