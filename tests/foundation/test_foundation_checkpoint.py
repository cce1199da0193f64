"""Saving and loading: the same predictions from the folder alone, and refusals that name both sides."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from foundation_toys import CAMERA, TASKS, make_run
from safetensors.torch import load_file, save_file

from hlrp.config import load_config
from hlrp.errors import UserError
from hlrp.foundation import Foundation, FoundationDataModule, FoundationModule, read_manifest
from hlrp.runs import RunDirectory


def make(run: Any) -> tuple[FoundationModule, FoundationDataModule]:
    torch.manual_seed(0)
    data = FoundationDataModule(run)
    return FoundationModule(run, data), data


@pytest.fixture(scope="module", params=["smol_latent_head", "qwen3vl_chat"])
def saved(request, square_root, table3, tmp_path_factory) -> tuple[FoundationModule, FoundationDataModule, Path]:
    """A model of random weights that sees the state, its data, and its folder."""
    model = {"backend": request.param, "use_state": True, "image_size": 96}
    module, data = make(make_run(square_root, {"table": table3}, model=model))
    folder = tmp_path_factory.mktemp("models") / request.param
    module.save_pretrained(folder)
    return module.eval(), data, folder


def test_the_folder_alone_gives_the_same_codes(saved, tmp_path):
    module, data, folder = saved
    moved = shutil.copytree(folder, tmp_path / "moved")
    batch = data.train_samples.__getitems__([0, 20, 40])
    with torch.no_grad():
        expected = module.backend.latent_from_batch(module.observation(batch)).codes
    model = Foundation.from_checkpoint(moved)
    found = model.predict_codes(batch[CAMERA], batch["instruction"], batch["observation.state"])
    assert torch.equal(found, expected)
    assert found.shape == (3, 4) and found.dtype == torch.int64
    assert int(found.min()) >= 0 and int(found.max()) < 8
    one = model.predict_codes({CAMERA: batch[CAMERA][1]}, batch["instruction"][1], batch["observation.state"][1])
    assert torch.equal(one, expected[1])
    larger = torch.nn.functional.interpolate(batch[CAMERA], scale_factor=2.0)
    assert model.predict_codes(larger, TASKS[0], batch["observation.state"]).shape == (3, 4)


def test_the_manifest_says_what_it_is(saved, square_root, table3):
    _, data, folder = saved
    manifest = read_manifest(folder)
    table = json.loads((table3 / "manifest.json").read_text())["identity"]
    spec = manifest.config.spec
    assert (spec.laq_sha256, spec.num_frames, spec.offset_seconds) == (table["laq_sha256"], 3, 0.2)
    assert (spec.codebook_size, spec.code_seq_len, spec.positions) == (8, 2, 4)
    assert (manifest.config.cameras, manifest.config.image_size) == ((CAMERA,), (96, 96))
    assert (manifest.backbone.name, manifest.backbone.pretrained) == ("tiny", False)
    counts = data.labels.code_counts(data.train_samples.starts)
    assert manifest.statistics.code_counts == counts.tolist()
    assert len(manifest.statistics.state_mean) == 2
    assert manifest.instructions == sorted(TASKS)
    assert [s.fingerprint for s in manifest.sources] == [table["dataset_fingerprint"]]


def test_wrong_inputs_are_said(saved):
    model, frame, state = Foundation.from_checkpoint(saved[2]), torch.zeros(3, 96, 96), torch.zeros(2)
    with pytest.raises(UserError, match=r"shape \(96, 96, 3\)"):
        model.predict_codes(frame.permute(1, 2, 0), "push", state)
    with pytest.raises(UserError, match="was trained with it"):
        model.predict_codes(frame, "push")
    with pytest.raises(UserError, match="3 numbers, the model takes 2"):
        model.predict_codes(frame, "push", torch.zeros(3))
    with pytest.raises(UserError, match="2 strings are needed"):
        model.predict_codes(torch.zeros(2, 3, 96, 96), ["push"], torch.zeros(2, 2))
    with pytest.raises(UserError, match=r"observation\.wrist"):
        model.predict_codes({"observation.wrist": frame}, "push", state)
    with pytest.raises(UserError, match="predicts codes"):
        model.predict_vectors(frame, "push", state)


def _damage_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = load_file(path)
    save_file({k: v + 1 if v.is_floating_point() else v for k, v in content.items()}, path)


def _drop_a_weight(folder: Path) -> None:
    import hashlib

    path = folder / "model.safetensors"
    content = load_file(path)
    del content[sorted(content)[0]]
    save_file(content, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _edit(**changes: Any) -> Any:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_damage_weights, "SHA-256 .* the manifest says"),
        (_drop_a_weight, "only in the model"),
        (_edit(kind="laq"), "holds a latent action quantizer, not a foundation model"),
        (_edit(schema_version=99), "schema 99"),
        (_edit(step="many"), "not valid at step"),
        (lambda f: (f / "backbone" / "config.json").write_text("{}"), "backbone/config.json is SHA-256"),
        (lambda f: (f / "backbone" / "config.json").unlink(), "backbone/config.json is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "truncated"),
        (lambda f: (f / "manifest.json").unlink(), "holds no foundation model"),
    ],
)
def test_damage_is_refused(damage, said, saved, tmp_path):
    folder = shutil.copytree(saved[2], tmp_path / "copy")
    damage(folder)
    with pytest.raises(UserError, match=said):
        Foundation.from_checkpoint(folder)


def test_training_starts_from_a_checkpoint_of_the_same_labels_only(saved, square_root, table3, table2, tmp_path):
    module, _, folder = saved
    backend = module.config.backend
    model = {"backend": backend, "use_state": True, "init_from": str(folder)}
    again, _ = make(make_run(square_root, {"table": table3}, model=model))
    assert all(torch.equal(v, again.backend.state_dict()[k]) for k, v in module.backend.state_dict().items())
    assert again.backbone == module.backbone
    assert torch.equal(again.state_mean, module.state_mean)
    sha = [json.loads((t / "manifest.json").read_text())["identity"]["laq_sha256"] for t in (table3, table2)]

    def refused(latents: Any, changes: dict[str, Any], *mentions: str) -> None:
        with pytest.raises(UserError) as error:
            make(make_run(square_root, latents, model=model | changes))
        for mention in mentions:
            assert mention in str(error.value)

    refused({"table": table2}, {}, sha[0], sha[1], "frames T of a window: the checkpoint has 3, the run asks for 2")
    refused({"table": table3}, {"use_state": False}, "state width: the checkpoint has 2, the run asks for None")
    other = {"smol_latent_head": "qwen3vl_chat", "qwen3vl_chat": "smol_latent_head"}[backend]
    refused({"table": table3}, {"backend": other}, f"backend: the checkpoint has {backend}, the run asks for {other}")
    from hlrp.foundation.backbones import make_tiny_backbone

    make_tiny_backbone(tmp_path / "other", backend)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"note": "another"}))
    refused({"table": table3}, {"backbone": str(tmp_path / "other")}, "backbone: the checkpoint has tiny")
    refused({"table": table3}, {"init_from": str(tmp_path)}, "holds no foundation model")


@pytest.mark.parametrize("start", ["backbone", "init_from"])
def test_a_run_goes_on_without_its_backbone_and_what_it_was_started_from(start, square_root, table2, tmp_path):
    """Exactly, with adapters over weights that were not trained, and a state standardised as it was."""
    from hlrp.foundation.backbones import make_tiny_backbone
    from trainers import LightningTrainer

    backend, out, given = "smol_latent_head", tmp_path / "run", tmp_path / "given"
    if start == "backbone":
        make_tiny_backbone(given, backend)
    else:
        other = {"trainer": {"steps": 1}, "episodes": [0, 1, 2, 3], "model": {"use_state": True}}
        LightningTrainer().fit(run=make_run(square_root, {"table": table2}, **other), output_dir=given)
    model = {"backend": backend, "use_state": True, start: str(given), "lora": {"rank": 2}}
    run = make_run(square_root, {"table": table2}, model=model, trainer={"steps": 2, "save_freq": 1})
    LightningTrainer().fit(run=run, output_dir=out)
    last = out / "checkpoints" / "000002"
    files = ["training_state/lightning.safetensors", "pretrained_model/model.safetensors"]
    files += ["pretrained_model/manifest.json", "pretrained_model/backbone/config.json"]
    before = {name: (last / name).read_bytes() for name in files}
    shutil.rmtree(last)
    shutil.rmtree(given)
    LightningTrainer().resume(RunDirectory.open(out), load_config(out / "config.yaml").config)
    assert [name for name in files if (last / name).read_bytes() != before[name]] == []


def test_a_missing_backbone_is_one_message(square_root, table2):
    with pytest.raises(UserError) as error:
        make(make_run(square_root, {"table": table2}, model={"backbone": "nobody/such-model"}))
    assert "--backbone" in str(error.value) and "--allow-download" in str(error.value)
