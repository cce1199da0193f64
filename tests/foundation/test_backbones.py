"""Backbones: the tokenizer, tiny folders, names and folders, strict loading."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hlrp.errors import UserError
from hlrp.foundation.backbones import load_backbone, make_tiny_backbone, resolve_backbone
from hlrp.foundation.backbones.tokenizer import byte_tokenizer

SMOL = "smol_latent_head"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "tiny"
    make_tiny_backbone(path, SMOL)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_byte_tokenizer_keeps_any_text_and_never_splits_a_special_token(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(["<pad>", "<image>"], pad_token="<pad>", image_token="<image>", eos_token="<end>")
    text = "Öffne  die Tür\n🚪 <image>now"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.replace("<image>", "").encode()) + 1
    assert (tokenizer.pad_token_id, tokenizer.image_token_id, tokenizer.eos_token_id, len(tokenizer)) == (
        256,
        257,
        258,
        259,
    )
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again(text).input_ids == ids
    assert again.image_token_id == 257


def test_a_tiny_backbone_has_the_same_bytes_each_time_and_leaves_the_random_state(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    make_tiny_backbone(tmp_path / "same", SMOL)
    assert torch.equal(torch.rand(4), expected)
    assert contents(tmp_path / "same") == contents(folder)
    make_tiny_backbone(tmp_path / "other", SMOL, seed=1)
    assert contents(tmp_path / "other")["model.safetensors"] != contents(folder)["model.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "same"]
    with pytest.raises(UserError, match="not empty"):
        make_tiny_backbone(tmp_path / "same", SMOL)


def test_tiny_is_made_once_in_the_cache_and_again_if_damaged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path))
    made = resolve_backbone("tiny", SMOL, allow_download=False)
    assert made.is_relative_to(tmp_path)
    assert contents(made) == contents(folder)
    stamp = (made / "model.safetensors").stat().st_mtime_ns
    assert resolve_backbone("tiny", SMOL, allow_download=False) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == stamp
    (made / "model.safetensors").write_bytes(b"half")
    assert contents(resolve_backbone("tiny", SMOL, allow_download=False)) == contents(folder)


def test_a_name_is_found_in_the_local_hub_cache_or_refused_in_one_message(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    found = resolve_backbone("some/model", SMOL, allow_download=False)
    assert contents(found) == contents(folder)
    with pytest.raises(UserError) as refused:
        resolve_backbone("some/other", SMOL, allow_download=False)
    assert all(text in str(refused.value) for text in ("some/other", "--backbone", "--allow-download", "tiny"))
    # HF_HUB_OFFLINE is set: fetching fails, in one message too.
    with pytest.raises(UserError, match="'some/other' cannot be fetched") as refused:
        resolve_backbone("some/other", SMOL, allow_download=True)
    assert "HF_HUB_OFFLINE" in str(refused.value)
    with pytest.raises(UserError, match="there is no folder"):
        resolve_backbone(str(tmp_path / "nowhere"), SMOL, allow_download=False)
    # A cache that holds the configuration only, as after a look at the model's page by another tool.
    (found / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"not whole: model\.safetensors"):
        resolve_backbone("some/model", SMOL, allow_download=False)


def test_another_kind_of_model_is_refused_with_both_sides_named(copy: Path) -> None:
    assert resolve_backbone(str(copy), SMOL, allow_download=False) == copy
    with pytest.raises(UserError) as refused:
        resolve_backbone(str(copy), "qwen3vl_chat", allow_download=False)
    assert all(text in str(refused.value) for text in ("'smolvlm'", "'qwen3_vl'", "--backend smol_latent_head"))
    with pytest.raises(UserError, match="did you mean 'smol_latent_head'"):
        resolve_backbone(str(copy), "smol_latent_heat", allow_download=False)
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        resolve_backbone(str(copy), SMOL, allow_download=False)


def test_loading_gives_float32_weights_or_only_the_architecture(copy: Path) -> None:
    model, processor = load_backbone(copy)
    stored = load_file(copy / "model.safetensors")
    assert model.dtype == torch.float32
    assert torch.equal(model.state_dict()["lm_head.weight"], stored["lm_head.weight"])
    assert processor.image_seq_len == 16
    save_file({k: v.bfloat16() for k, v in stored.items()}, copy / "model.safetensors", {"format": "pt"})
    raw = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(raw | {"dtype": "bfloat16"}))
    assert {p.dtype for p in load_backbone(copy)[0].parameters()} == {torch.float32}
    (copy / "model.safetensors").unlink()
    bare, _ = load_backbone(copy, weights=False)
    assert {k: v.shape for k, v in bare.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert bare.dtype == torch.float32


def test_weights_that_lack_a_tensor_or_are_pickled_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = "model.text_model.layers.1.mlp.up_proj.weight"
    lacking = {k: v for k, v in weights.items() if k != name}
    save_file(lacking, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 tensors are missing") as refused:
        load_backbone(copy)
    assert name in str(refused.value)
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(copy)


def test_lerobot_loads_the_tiny_backbone(folder: Path) -> None:
    from lerobot.policies.smolvla.smolvlm_with_expert import SmolVLMWithExpertModel

    model = SmolVLMWithExpertModel(str(folder), load_vlm_weights=False, train_expert_only=False)
    assert model.processor.tokenizer.fake_image_token_id is not None
    assert model.embed_image(torch.zeros(2, 3, 96, 96)).shape == (2, 16, 128)
