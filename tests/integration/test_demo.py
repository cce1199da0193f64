"""`hlrp demo --quick`: the whole chain from video to policies that act; a second call repeats nothing."""

import json
import time
from pathlib import Path

import pytest
from command import hlrp

from hlrp.runs import RunDirectory

TRAINED = ("laq", "foundation", "latent_expert", "act")


@pytest.mark.slow
def test_the_whole_chain_and_nothing_twice(tmp_path: Path) -> None:
    first = hlrp("demo", "--quick", "--output", tmp_path / "demo", timeout=500)
    assert first.code == 0, first.err
    root = tmp_path / "demo" / "quick"
    info = json.loads((root / "data/meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"]) == ("v3.0", 4)
    assert {RunDirectory.open(root / name).manifest.status for name in TRAINED} == {"finished"}
    recorded = {e["reset_seed"] for e in json.loads((root / "data/meta/hlrp_collect.json").read_text())["episodes"]}
    for policy in ("latent_expert", "act"):
        results = json.loads((root / f"eval_{policy}/results.json").read_text())
        assert set(results["tasks"]) == {"button-press-v3", "drawer-close-v3"}
        assert results["overall"]["episodes"] == 2
        assert not recorded & {e["seed"] for e in results["episodes"]}, "evaluated on recorded seeds"
        assert list((root / f"eval_{policy}").rglob("*.mp4"))
    assert all(text in first.out for text in ("button-press-v3", "hlrp_action_expert_latent", "ACT"))
    _chain_is_one(root)

    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    started = time.monotonic()
    second = hlrp("demo", "--quick", "--output", tmp_path / "demo")
    assert second.code == 0, second.err
    assert second.err.count("already done") == 8
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before
    assert time.monotonic() - started < 10


def _chain_is_one(root: Path) -> None:
    """Labels, foundation model and policy all name the quantizer that was trained here."""
    table = json.loads((root / "latents/manifest.json").read_text())["identity"]["laq_sha256"]
    policy = json.loads((root / "latent_expert/checkpoints/000004/pretrained_model/config.json").read_text())
    assert policy["laq_sha256"] == table
    assert Path(policy["init_from"]).resolve() == (root / "foundation").resolve()
