"""Commands that read the frames of a video whose times are a little off those of the tables: refused, and allowed."""

import json
from pathlib import Path
from typing import Any

import index_videos as iv
import pytest
from make_labels import make_quantizer

from hlrp.errors import HlrpError
from hlrp.latents import LatentTable
from hlrp_cli.data import report
from hlrp_cli.fit_actions import fit_actions
from hlrp_cli.laq_report import laq_report
from hlrp_cli.pseudo_label import pseudo_label

FITS = 0.0042


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset in which every third frame comes 4 ms late."""
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path / "cache"))
    return iv.index_dataset(
        tmp_path / "late", iv.Kind(times=lambda i: i / 10 + 0.004 * (i % 3 == 1)), cameras=(iv.TOP,)
    )


def test_a_map_to_actions_is_fitted_and_used(late: Path, tmp_path: Path) -> None:
    laq = make_quantizer(tmp_path / "laq", camera=iv.TOP)
    options: dict[str, Any] = {"dataset_root": late, "laq": laq, "device": "cpu"}
    with pytest.raises(HlrpError, match=f"--tolerance-s {FITS}, in hlrp train data.tolerance_s={FITS}"):
        fit_actions(**options, suggest=1)
    fit_actions(**options, suggest=1, tolerance_s=FITS)
    [table] = (tmp_path / "cache/latents").iterdir()
    assert LatentTable.open(table).identity.rows == sum(iv.LENGTHS)
    fit_actions(**options, episodes="0,2", output=tmp_path / "decoder", tolerance_s=FITS)
    (table / "manifest.json").unlink()
    for shard in table.glob("*.safetensors"):
        shard.unlink()
    made = {"decoder": tmp_path / "decoder", "output": tmp_path / "out", "mask_below_floor": True, **options}
    with pytest.raises(HlrpError, match=f"--tolerance-s {FITS}"):
        pseudo_label(**made)
    pseudo_label(**made, tolerance_s=FITS)
    assert (tmp_path / "out/meta/info.json").is_file()


def test_reports_are_written(late: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tolerance in (1e-4, FITS):
        report([late], json_output=True, tolerance_s=tolerance)
        [source] = json.loads(capsys.readouterr().out)["sources"]
        wrong = [problem["fix"] for problem in source["problems"] if problem["fatal"]]
        [camera] = source["cameras"]
        assert bool(camera["motion"]) == (not wrong) == (tolerance == FITS)
        assert all(f"--tolerance-s {FITS}" in fix for fix in wrong)
    laq = make_quantizer(tmp_path / "laq", camera=iv.TOP)
    card: dict[str, Any] = {"dataset_root": [late], "output": tmp_path / "card", "windows": 8, "batch_size": 4}
    with pytest.raises(HlrpError, match=f"--tolerance-s {FITS}"):
        laq_report(laq, **card, device="cpu")
    laq_report(laq, **card, device="cpu", tolerance_s=FITS, json_output=True)
    [source] = json.loads(capsys.readouterr().out)["sources"]
    assert source["windows"] == 8
