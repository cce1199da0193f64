"""Pseudo-labels of a dataset that is not, or no longer, quite the one that the decoder was fitted on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from action_toys import EPISODES, LENGTH, OFFSET, label, spoil_column

from hlrp.data import read_dataset
from hlrp.data.columns import ACTION_SOURCE, read_columns
from hlrp.latents.actions import fit_actions
from hlrp.latents.pseudo_label_identity import PROVENANCE, check_pseudo_labels
from hlrp.latents.pseudo_labels import PseudoLabelRequest, pseudo_label

LABELLED = [0, 2, 5]


@pytest.fixture
def edited(clean, tmp_path):
    """The dataset with other statistics, its latents, and the decoder that was fitted before."""
    info, table, _ = clean
    decoder = fit_actions(table, info, LABELLED, offsets=[0])
    shutil.copytree(info.root, tmp_path / "data")
    stats = tmp_path / "data/meta/stats.json"
    stats.write_text(json.dumps(json.loads(stats.read_text()) | {"observation.state": {"std": [2.0]}}))
    latents = [np.asarray(table.vectors(range(first, first + LENGTH)))[:, 0, 0] for first in range(0, 240, LENGTH)]
    return read_dataset(None, tmp_path / "data"), decoder, latents


def frames_of(info, decoder, latents, output: Path) -> tuple[int, int, int]:
    """Frames of which the action is recorded, predicted and neither."""
    return pseudo_label(
        PseudoLabelRequest(info, decoder, label(info, output.with_suffix(".table"), latents), output)
    ).frames


def predicted(episodes: int) -> tuple[int, int]:
    return episodes * (LENGTH - OFFSET), episodes * OFFSET


def test_recorded_actions_stay_where_something_else_has_changed(edited, clean, tmp_path):
    info, decoder, latents = edited
    assert info.fingerprint() != clean[0].fingerprint()
    assert check_pseudo_labels(info, decoder.manifest, tmp_path / "out", mask_below_floor=False) == []
    assert frames_of(info, decoder, latents, tmp_path / "out") == (3 * LENGTH, *predicted(EPISODES - 3))
    before = read_columns(info, ["action"])["action"]
    after = read_columns(read_dataset(None, tmp_path / "out"), ["action", ACTION_SOURCE])
    kept = np.isin(np.arange(EPISODES), LABELLED).repeat(LENGTH)
    assert ((after[ACTION_SOURCE] == 0) == kept).all() and (after["action"] == before)[kept].all()
    identity = json.loads((tmp_path / "out" / PROVENANCE).read_text())["identity"]
    assert (identity["recorded"], identity["dataset_fingerprint"]) == (LABELLED, info.fingerprint())


def test_that_recorded_actions_are_replaced_is_said(edited, clean, tmp_path):
    info, decoder, latents = edited
    older = decoder.manifest.model_copy(update={"actions_sha256": None})
    assert check_pseudo_labels(clean[0], older, tmp_path / "out", mask_below_floor=False) == []
    [line] = check_pseudo_labels(info, older, tmp_path / "out", mask_below_floor=False)
    assert "older hlrp" in line and str(info.root) in line
    spoil_column(info, "action", [1, 2, 3, 4, 5])
    [line] = check_pseudo_labels(info, decoder.manifest, tmp_path / "out", mask_below_floor=False)
    assert "episodes 0, 2, 5" in line and str(info.root) in line
    assert frames_of(info, decoder, latents, tmp_path / "out") == (0, *predicted(EPISODES))
