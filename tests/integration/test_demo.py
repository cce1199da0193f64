"""`hlrp demo --quick`: record, train, evaluate; a second call repeats nothing."""

import json
import time
from pathlib import Path

from command import hlrp

from hlrp.runs import RunDirectory


def test_the_whole_chain_and_nothing_twice(tmp_path: Path) -> None:
    first = hlrp("demo", "--quick", "--output", tmp_path / "demo", timeout=400)
    assert first.code == 0, first.err
    root = tmp_path / "demo" / "quick"
    info = json.loads((root / "data/meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"]) == ("v3.0", 4)
    assert RunDirectory.open(root / "act").manifest["status"] == "finished"
    results = json.loads((root / "eval/results.json").read_text())
    assert set(results["tasks"]) == {"button-press-v3", "drawer-close-v3"}
    assert results["overall"]["episodes"] == 2
    recorded = {e["reset_seed"] for e in json.loads((root / "data/meta/hlrp_collect.json").read_text())["episodes"]}
    assert not recorded & {e["seed"] for e in results["episodes"]}, "evaluated on recorded seeds"
    assert list((root / "eval").rglob("*.mp4"))
    assert "button-press-v3" in first.out

    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    started = time.monotonic()
    second = hlrp("demo", "--quick", "--output", tmp_path / "demo")
    assert second.code == 0, second.err
    assert second.err.count("already done") == 3
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before
    assert time.monotonic() - started < 10
