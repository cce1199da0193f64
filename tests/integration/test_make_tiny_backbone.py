"""`hlrp make-tiny-backbone` on the installed command."""

from pathlib import Path

from command import assert_user_error, hlrp


def test_it_writes_a_model_folder_that_loads_and_refuses_to_overwrite_it(tmp_path: Path) -> None:
    from hlrp.foundation.backbones import check_backbone, load_backbone

    folder = tmp_path / "models" / "tiny"
    done = hlrp("make-tiny-backbone", folder, "--seed", "3", env={"HF_HUB_OFFLINE": "1"})
    assert done.code == 0, done.err
    assert f"--backbone {folder}" in done.out
    assert done.err == ""
    check_backbone(folder, "smol_latent_head")
    model, processor = load_backbone(folder)
    assert model.config.model_type == "smolvlm"
    assert processor.image_seq_len == 16
    assert_user_error(hlrp("make-tiny-backbone", folder), "not empty", str(folder))
    assert_user_error(hlrp("make-tiny-backbone", tmp_path / "b", "--backend", "qwen"), "'qwen'", "qwen3vl_chat")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models"]
