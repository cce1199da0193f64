"""What an action decoder is not fitted on and does not fit; its folder: the same bytes again, and damage refused."""

import json
import re

import numpy as np
import pytest
from action_toys import EPISODES, LENGTH, SHA256, label, record

from hlrp.data import read_dataset
from hlrp.errors import UserError
from hlrp.latents.actions import ActionDecoder, fit_actions
from hlrp.report.page import make_page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"laq_sha256": "b" * 64}, "quantizer"),
        ({"camera": "observation.other"}, "camera: the dataset has observation.other, the decoder observation.image"),
        ({"code_seq_len": 1, "codebook_size": 3}, "codes K: the dataset has 3, the decoder 2"),
    ],
)
def test_latents_of_another_kind_are_refused(clean, tmp_path, change, message):
    info, table, _ = clean
    latents = [table.vectors(np.arange(e * LENGTH, (e + 1) * LENGTH)).flatten(1).numpy() for e in range(EPISODES)]
    decoder = fit_actions(table, info, [0, 1])
    with pytest.raises(UserError, match=message):
        decoder.check(label(info, tmp_path / "other", latents, **change), info)


def test_another_rate_and_another_action_are_refused(clean, tmp_path):
    info, table, _ = clean
    decoder = fit_actions(table, info, [0, 1])
    latents = [np.zeros((10, 4))] * 2
    fast = read_dataset(None, record(tmp_path / "fast", [np.zeros((10, 2))] * 2, fps=20))
    with pytest.raises(UserError) as refused:
        decoder.check(label(fast, tmp_path / "table", latents), fast)
    assert "frames per second: the dataset has 20" in str(refused.value)
    assert "width of the action: the dataset has 2, the decoder 3" in str(refused.value)


def test_what_cannot_be_fitted_is_refused(clean, tmp_path):
    info, table, _ = clean
    latents = [table.vectors(np.arange(e * LENGTH, (e + 1) * LENGTH)).flatten(1).numpy() for e in range(EPISODES)]
    with pytest.raises(UserError, match="no episode is labelled"):
        fit_actions(table, info, [])
    with pytest.raises(UserError, match=r"episodes \[9\] do not exist"):
        fit_actions(table, info, [0, 9])
    codes_only = label(info, tmp_path / "codes", latents, vectors=False)
    with pytest.raises(UserError, match="no continuous latents"):
        fit_actions(codes_only, info, [0, 1])
    assert fit_actions(codes_only, info, [0, 1], inputs="codes").manifest.spec.vector_dim is None
    spoiled = label(info, tmp_path / "spoiled", latents, spoiled=(0, 1))
    with pytest.raises(UserError, match="have no latents"):
        fit_actions(spoiled, info, [0, 1])
    lost = fit_actions(table, info, [2, 3]).episode(spoiled, info, 1)
    assert not lost.known.any()
    assert not lost.confidence.any()


@pytest.mark.parametrize("estimator", ["ridge", "ensemble"])
def test_the_same_fit_gives_the_same_bytes_and_reads_back(noisy, tmp_path, estimator):
    info, table, _ = noisy
    decoder = fit_actions(table, info, [0, 1], estimator=estimator, seed=3)
    decoder.save(tmp_path / "one")
    fit_actions(table, info, [1, 0], estimator=estimator, seed=3).save(tmp_path / "two")
    for name in ("manifest.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    back = ActionDecoder.load(tmp_path / "one")
    assert back.manifest == decoder.manifest
    np.testing.assert_array_equal(back.episode(table, info, 4).actions, decoder.episode(table, info, 4).actions)
    with pytest.raises(UserError, match="is there already"):
        decoder.save(tmp_path / "one")


def test_a_damaged_decoder_is_refused(noisy, tmp_path):
    info, table, _ = noisy
    folder = tmp_path / "decoder"
    fit_actions(table, info, [0, 1]).save(folder)
    manifest, weights = folder / "manifest.json", folder / "model.safetensors"
    good, said = weights.read_bytes(), json.loads(manifest.read_text())
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match="not of one decoder"):
        ActionDecoder.load(folder)
    weights.write_bytes(good[:20])
    with pytest.raises(UserError, match="cannot be read"):
        ActionDecoder.load(folder)
    weights.write_bytes(good)
    for change in ({"extra": 1}, {"schema_version": 2}, {"offsets": [0]}):
        manifest.write_text(json.dumps(said | change))
        with pytest.raises(UserError):
            ActionDecoder.load(folder)
    manifest.write_text(json.dumps(said))
    ActionDecoder.load(folder)
    with pytest.raises(UserError, match="holds a latent table, not an action decoder"):
        ActionDecoder.load(table.folder)
    with pytest.raises(UserError, match="is no action decoder"):
        ActionDecoder.load(tmp_path)


def test_its_page_says_what_it_was_fitted_on_and_how_well(noisy, tmp_path):
    info, table, _ = noisy
    decoder = fit_actions(table, info, [0, 1])
    decoder.save(tmp_path / "decoder")
    page = make_page(tmp_path / "decoder")
    assert page == tmp_path / "decoder" / "report.html"
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))
    for score in decoder.manifest.dimensions:
        assert f"{score.name} {score.r2:.3f}" in text
    assert "Action decoder" in text and "episodes 0, 1" in text and "estimator ridge" in text
    assert f"a dataset {info.repo_id} fingerprint {info.fingerprint()}" in re.sub(r" · ", " ", text)
    assert f"SHA-256 {SHA256}" in text
