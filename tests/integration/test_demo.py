"""`hlrp demo --quick`: the whole chain from video to policies that act; a second call repeats nothing."""

import json
import time
from pathlib import Path

import pytest
from command import hlrp

from hlrp.data import read_dataset, read_episodes
from hlrp.runs import RunDirectory

TRAINED = ("laq", "foundation", "latent_expert", "act", "few_actions", "few_video")
TASKS = {"button-press-v3", "drawer-close-v3"}
FEW_TASKS = {"button-press-topdown-v3", "window-close-v3"}


@pytest.mark.slow
def test_the_whole_chain_and_nothing_twice(tmp_path: Path) -> None:
    first = hlrp("demo", "--quick", "--full", "--output", tmp_path / "demo", timeout=500)
    assert first.code == 0, first.err
    root = tmp_path / "demo" / "quick"
    info = json.loads((root / "data/meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"]) == ("v3.0", 4)
    assert {RunDirectory.open(root / name).manifest.status for name in TRAINED} == {"finished"}
    recorded = {e["reset_seed"] for e in json.loads((root / "data/meta/hlrp_collect.json").read_text())["episodes"]}
    for policy in TRAINED[2:]:
        results = json.loads((root / policy / "eval/demo/results.json").read_text())
        assert set(results["tasks"]) == (FEW_TASKS if policy.startswith("few") else TASKS)
        assert results["overall"]["episodes"] == 2
        assert not recorded & {e["seed"] for e in results["episodes"]}, "evaluated on recorded seeds"
        assert list((root / policy / "eval/demo").rglob("*.mp4"))
    assert all(text in first.out for text in ("button-press-v3", "hlrp_action_expert_latent", "ACT"))
    _pages_are_linked(root)
    _chain_is_one(root)
    _few_actions_are_few(root, first.out)

    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    started = time.monotonic()
    second = hlrp("demo", "--quick", "--full", "--output", tmp_path / "demo")
    assert second.code == 0, second.err
    assert second.err.count("already done") == 17
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before
    assert time.monotonic() - started < 10


def _pages_are_linked(root: Path) -> None:
    """The index leads to each run's page, and the policy's page to those of what it was made from, with its results."""
    index = (root / "index.html").read_text()
    assert all(f'href="{name}/report.html"' in index for name in TRAINED)
    page = (root / "latent_expert/report.html").read_text()
    assert all(f'href="../{name}/report.html"' in page for name in ("foundation", "laq"))
    assert "<video" in page


def _chain_is_one(root: Path) -> None:
    """Labels, foundation model and policy all name the quantizer that was trained here."""
    table = json.loads((root / "latents/manifest.json").read_text())["identity"]["laq_sha256"]
    policy = json.loads((root / "latent_expert/checkpoints/000004/pretrained_model/config.json").read_text())
    assert policy["laq_sha256"] == table
    assert Path(policy["init_from"]).resolve() == (root / "foundation").resolve()


def _few_actions_are_few(root: Path, out: str) -> None:
    """One policy sees the labelled episodes alone, the other all, with actions that are nobody's but the decoder's."""
    tasks = read_episodes(read_dataset(None, root / "few_data")).task
    assert len(set(tasks[:2])) == 2, "one labelled episode of each task"
    alone, video = (RunDirectory.open(root / f"few_{name}").manifest for name in ("actions", "video"))
    assert (
        Path(str(alone.dataset.root)).name == "few_data" and Path(str(video.dataset.root)).name == "few_pseudo_labels"
    )
    policy = json.loads((root / "few_actions/checkpoints/000004/pretrained_model/config.json").read_text())
    assert policy["labelled_episodes"] == [0, 1] and policy["use_state"] is False
    said = json.loads((root / "few_pseudo_labels/meta/hlrp_pseudo_labels.json").read_text())["identity"]
    assert said["recorded"] == [0, 1]
    shares = [
        json.loads((root / f"few_{n}/eval/demo/results.json").read_text())["overall"] for n in ("actions", "video")
    ]
    before, after = (f"{share['success_rate']:.0%}" for share in shares)
    assert f"actions of 1 of 2 episodes a task: {before} -> with the video of all: {after}" in out
