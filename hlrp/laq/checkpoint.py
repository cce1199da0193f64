"""A quantizer on disk: ``model.safetensors`` and ``manifest.json`` in one folder, loaded strictly or not at all."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from hlrp import __version__
from hlrp.errors import UserError
from hlrp.files import write_bytes, write_text
from hlrp.laq.config import LAQConfig
from hlrp.runs import checkpoint_step, safetensors_problem
from hlrp.runs.kinds import refuse_other

if TYPE_CHECKING:
    from hlrp.laq.model import LAQ

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
MODEL_FOLDER = "pretrained_model"
SCHEMA_VERSION = 1
_KIND = "laq"


class LAQSource(BaseModel):
    """A dataset that the weights were trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo_id: str
    fingerprint: str
    fps: float


class LAQManifest(BaseModel):
    """What a quantizer is, beside its weights. The fields that repeat ``config`` are for readers in other languages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    kind: str
    hlrp_version: str
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
    folder.mkdir(parents=True, exist_ok=True)
    digest = _write_weights(laq, folder)
    config = laq.config
    manifest = LAQManifest(
        schema_version=SCHEMA_VERSION,
        kind=_KIND,
        hlrp_version=__version__,
        config=config,
        codebook_size=config.codebook_size,
        code_seq_len=config.code_seq_len,
        num_frames=config.num_frames,
        image_size=config.image_size,
        offset_seconds=config.offset_seconds,
        cameras=tuple(cameras),
        sources=tuple(sources),
        step=step,
        weights_sha256=digest,
    )
    # Last, so that a manifest is never beside weights that it does not describe without the hash telling.
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def _write_weights(laq: "LAQ", folder: Path) -> str:
    from safetensors.torch import save as to_bytes

    content = to_bytes({name: value.detach().cpu().contiguous() for name, value in laq.state_dict().items()})
    write_bytes(folder / WEIGHTS, content)
    return hashlib.sha256(content).hexdigest()


def read_manifest(path: Path) -> LAQManifest:
    """Read the manifest of a model folder, a checkpoint folder or a run folder.

    Raises:
        UserError: There is none, it cannot be read, or it is of another kind or schema.
    """
    return _read(find_model(path) / MANIFEST)


def find_model(path: Path) -> Path:
    """The folder of the model that ``path`` means: itself, a checkpoint's, or a run's newest complete checkpoint's.

    Raises:
        UserError: There is no quantizer.
    """
    refuse_other(path, "a latent action quantizer", str(path))
    folder, broken = whole_model(path)
    if folder is not None:
        return folder
    raise UserError(
        f"{path} holds no latent action quantizer" + (f" that is whole ({'; '.join(broken)})" if broken else ""),
        where="--laq / latents.laq",
        fix="give a run of `hlrp train --trainer lightning --model laq`, or a folder with model.safetensors and "
        "manifest.json",
    )


def whole_model(path: Path) -> tuple[Path | None, list[str]]:
    """The folder with a manifest and whole weights that ``path`` means, and what is wrong with newer ones."""
    steps = [
        (step, p)
        for p in (path / "checkpoints").glob("*")
        if (step := checkpoint_step(p)) is not None and not p.is_symlink()
    ]
    newest_first = [p for _, p in sorted(steps, reverse=True)]
    broken: list[str] = []
    for folder in (path, path / MODEL_FOLDER, *(p / MODEL_FOLDER for p in newest_first)):
        if not (folder / MANIFEST).is_file():
            continue
        problem = safetensors_problem(folder / WEIGHTS)
        if problem is None:
            return folder, broken
        broken.append(f"{folder}: {problem}")
    return None, broken


def _read(path: Path) -> LAQManifest:
    try:
        raw = json.loads(path.read_text(encoding="utf8"))
        version, kind = raw["schema_version"], raw["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the manifest of the quantizer cannot be read: {error!r}", where=str(path), fix="use another checkpoint"
        ) from error
    if kind != _KIND or version != SCHEMA_VERSION:
        raise UserError(
            f"the manifest says kind {kind!r}, schema {version!r}; "
            f"this version reads {_KIND!r}, schema {SCHEMA_VERSION}",
            where=str(path),
            fix="load it with the version that wrote it, or train again",
        )
    try:
        manifest = LAQManifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the manifest is not valid at {'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=str(path),
            fix="use another checkpoint",
        ) from error
    for name in ("codebook_size", "code_seq_len", "num_frames", "image_size", "offset_seconds"):
        if getattr(manifest, name) != getattr(manifest.config, name):
            raise UserError(
                f"the manifest contradicts itself: {name} is {getattr(manifest, name)}, "
                f"config.{name} is {getattr(manifest.config, name)}",
                where=str(path),
                fix="use another checkpoint",
            )
    return manifest


def load[Model: "LAQ"](cls: type[Model], path: Path, device: torch.device | str) -> Model:
    """Build the model that ``path`` holds, in evaluation mode; see `hlrp.laq.model.LAQ.from_checkpoint`."""
    from safetensors.torch import load as from_bytes

    folder = find_model(path)
    manifest = _read(folder / MANIFEST)
    content = (folder / WEIGHTS).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.weights_sha256:
        raise UserError(
            f"{WEIGHTS} has SHA-256 {digest[:16]}..., the manifest says {manifest.weights_sha256[:16]}...",
            where=str(folder),
            fix="the two files are not of one checkpoint; use another one",
        )
    model = cls(manifest.config)
    stored, expected = from_bytes(content), model.state_dict()
    check_state(stored, expected, str(folder / WEIGHTS))
    model.load_state_dict(stored, strict=True)
    model.manifest = manifest
    return model.to(device).eval()


def check_state(stored: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], where: str) -> None:
    """Check that weights fit a model name by name and shape by shape.

    Raises:
        UserError: Naming what differs on both sides.
    """
    missing, surplus = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    shapes = [
        f"{name}: file {tuple(stored[name].shape)}, model {tuple(expected[name].shape)}"
        for name in sorted(stored.keys() & expected.keys())
        if stored[name].shape != expected[name].shape
    ]
    if not (missing or surplus or shapes):
        return
    parts = [f"only in the model: {', '.join(missing[:4])}"] if missing else []
    parts += [f"only in the file: {', '.join(surplus[:4])}"] if surplus else []
    parts += [f"other shapes: {'; '.join(shapes[:4])}"] if shapes else []
    raise UserError(
        "the weights do not fit the model (" + "; ".join(parts) + ")",
        where=where,
        fix="use weights of the same preset, sizes and quantizer",
    )
