"""A quantizer on disk: the way there and back, and every way in which files may not fit together."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from laq_toys import moving_square
from safetensors.torch import load_file, save_file

from hlrp.errors import UserError
from hlrp.laq import LAQ, read_manifest
from hlrp.laq.checkpoint import LAQSource, find_model

Build = Callable[..., LAQ]
SOURCE = LAQSource(repo_id="me/robot", fingerprint="0123456789abcdef", fps=30.0)


@pytest.mark.parametrize("quantizer", ["nsvq", "fsq", "vq"])
def test_a_loaded_model_gives_the_same_codes(small: Build, tmp_path: Path, quantizer: str) -> None:
    laq, (video, _) = small(quantizer=quantizer, num_frames=3), moving_square(8, 3)
    laq.save(tmp_path, cameras=["observation.image"], sources=[SOURCE], step=7)
    loaded = LAQ.from_checkpoint(tmp_path, device="cpu")
    assert torch.equal(loaded.encode(video), laq.encode(video))
    assert not loaded.training
    assert loaded.config == laq.config
    manifest = read_manifest(tmp_path)
    assert loaded.manifest == manifest
    assert (manifest.cameras, manifest.sources, manifest.step) == (("observation.image",), (SOURCE,), 7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "model.safetensors"]


def test_a_run_means_its_newest_whole_checkpoint(small: Build, tmp_path: Path) -> None:
    for step in (20, 100, 3):
        small().save(tmp_path / "checkpoints" / str(step) / "pretrained_model", step=step)
    assert read_manifest(tmp_path).step == 100
    assert read_manifest(tmp_path / "checkpoints" / "20").step == 20
    weights = tmp_path / "checkpoints/100/pretrained_model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert read_manifest(tmp_path).step == 20
    with pytest.raises(UserError, match="truncated"):
        find_model(weights.parent)
    with pytest.raises(UserError, match="no latent action quantizer"):
        find_model(tmp_path / "nowhere")


def _edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_what_does_not_fit_is_refused_with_both_sides(small: Build, tmp_path: Path) -> None:
    def saved() -> Path:
        small().save(tmp_path)
        return tmp_path

    _edit(saved(), schema_version=99)
    with pytest.raises(UserError, match=r"schema 99.*schema 1"):
        LAQ.from_checkpoint(tmp_path)
    _edit(saved(), codebook_size=8)
    with pytest.raises(UserError, match=r"codebook_size is 8, config\.codebook_size is 16"):
        LAQ.from_checkpoint(tmp_path)
    _edit(saved(), surprise=1)
    with pytest.raises(UserError, match="surprise"):
        LAQ.from_checkpoint(tmp_path)
    (saved() / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json"):
        LAQ.from_checkpoint(tmp_path)

    stored = load_file(saved() / "model.safetensors")
    save_file({k: v + 1 for k, v in stored.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="SHA-256"):
        LAQ.from_checkpoint(tmp_path)


def test_weights_of_another_shape_are_refused_name_by_name(small: Build, tmp_path: Path) -> None:
    small(quantizer="fsq").save(tmp_path / "fsq")
    small(codebook_size=8).save(tmp_path / "k8")
    small().save(tmp_path / "k16")
    for other, message in (
        ("fsq", r"only in the model: quantizer.codes.*only in the file: quantizer"),
        ("k8", r"quantizer.codes: file \(4, 8, 8\), model \(4, 16, 8\)"),
    ):
        weights = (tmp_path / other / "model.safetensors").read_bytes()
        (tmp_path / "k16/model.safetensors").write_bytes(weights)
        _edit(tmp_path / "k16", weights_sha256=read_manifest(tmp_path / other).weights_sha256)
        with pytest.raises(UserError, match=message):
            LAQ.from_checkpoint(tmp_path / "k16")
