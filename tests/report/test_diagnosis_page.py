"""The page of a diagnosis: its verdict, evidence, pictures and drawings, whole at any width; and in that of its run."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_browser import CHROMIUM, look_at

from hlrp.evaluation.diagnosis.findings import Diagnosis, Finding, Histogram, Picture, Trace, failed, passed, undecided
from hlrp.files import write_json
from hlrp.report.diagnosis import write_page
from hlrp.report.page import make_page
from hlrp.runs import RunDirectory


@pytest.fixture
def diagnosis(tmp_path: Path) -> Diagnosis:
    policy = {"path": "/runs/<act>/checkpoints/000100/pretrained_model", "type": "act", "step": 100}
    provenance: dict[str, Any] = {
        "created": "2026-01-31T12:00:00+00:00",
        "policy": {**policy, "device": "cpu", "weights_sha256": "ab" * 32},
        "env": {"type": "metaworld_light", "tasks": ["drawer-close-v3"], "fields": {"image_size": 64}},
        "dataset": {"root": "/data/drawer", "episodes": [0, 3]},
        "versions": {"python": "3.12"},
    }
    found = Diagnosis(tmp_path, provenance, success=(0, 4))
    # In whatever order they are found: a fault of the weights follows from one of the processors.
    found.add(failed("weights", "open loop", "weights_untrained", "its actions explain 1%", "train longer"))
    found.add(undecided("weights", "actions", "unlike the data"), passed("data", "statistics", "of the numbers"))
    found.add(failed("processors", "normaliser", "stale_normaliser", "mean 7 & std < 1", "restore it", joint="pan"))
    steps = np.linspace(0, 6, 50, dtype=np.float32)
    found.traces = [Trace(joint, 3, np.sin(steps), np.cos(steps)) for joint in ("pan", "lift")]
    shares = {"recorded": [0.5, 0.5], "on recorded pictures": [1.0, 0.0], "acting": [0.0, 1.0]}
    found.histograms = [Histogram("pan", [-1.0, 0.0, 1.0], shares)]
    noise = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), np.uint8)
    found.pictures = [
        Picture("observation.images.top", name, p) for name, p in zip(("recorded", "environment"), noise, strict=True)
    ]
    return found


def test_the_first_layer_with_a_fault_is_named(diagnosis: Diagnosis) -> None:
    said = "the processors fail: mean 7 & std < 1 (then look at: weights_untrained)"
    assert (diagnosis.layer, diagnosis.healthy, diagnosis.verdict) == ("processors", False, said)
    assert [f.layer for f in diagnosis.findings] == ["data", "processors", "weights", "weights"]
    json = diagnosis.to_json()
    assert json["success"] == {"successes": 0, "episodes": 4} and json["fault"] == "stale_normaliser"
    assert json["findings"][1]["evidence"] == {"joint": "pan"}


def test_a_policy_that_only_lacks_skill_is_said_to(tmp_path: Path) -> None:
    found = Diagnosis(tmp_path, {}, success=(1, 4))
    found.add(*(passed(layer, "x", "agrees") for layer in ("data", "environment", "weights")))
    assert found.healthy and found.verdict.startswith(
        "healthy: data, environment and weights agree with each other, 1 of"
    )
    assert found.verdict.endswith("the policy's skill is what lacks: more data, steps, or another policy")


def test_the_page_shows_it_all(diagnosis: Diagnosis) -> None:
    text = write_page(diagnosis).read_text(encoding="utf8")
    assert "the processors fail: mean 7 &amp; std &lt; 1" in text and "/runs/&lt;act&gt;" in text
    assert text.count("<polyline") == 2 * 2 + 3 and text.count("data:image/png;base64,") == 2
    # Shares of a half, over the left and the right half of the drawing.
    assert "0.0,110.0 0.0,55.0 170.0,55.0 170.0,55.0 340.0,55.0 340.0,110.0" in text
    for part in ("Episode 3, step by step", "restore it", "train longer", "2026-01-31T12:00:00", "image_size 64"):
        assert part in text
    assert "<script" not in text


def diagnose(run: RunDirectory, name: str, *findings: Finding) -> Path:
    """A diagnosis in a run, as `hlrp eval --diagnose` leaves it, and its page."""
    policy = {"path": str(run.path), "type": "act", "step": 2, "weights_sha256": None}
    said = {"created": "2026-11-28", "policy": policy, "env": None, "dataset": {"root": "/d", "episodes": [0]}}
    found = Diagnosis(run.path / "eval" / name, {**said, "versions": {}})
    found.add(*findings)
    found.folder.mkdir(parents=True)
    write_json(found.folder / "diagnosis.json", found.to_json())
    return write_page(found)


def run_with_diagnoses(path: Path) -> RunDirectory:
    run = RunDirectory.create(path, config_yaml="")
    diagnose(run, "a 1", passed("data", "features", "agree"), passed("weights", "open loop", "close"))
    faulty = failed("weights", "open loop", "weights_untrained", f"they explain <1% {'of it ' * 9}", "train longer")
    diagnose(run, "b", passed("data", "features", "agree"), faulty)
    return run


def test_diagnoses_stand_in_the_page_of_their_run_and_are_linked(tmp_path: Path) -> None:
    run = run_with_diagnoses(tmp_path / "act")
    page = make_page(run.path).read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    # The newest first; what its layers say under the verdict.
    assert text.count("Diagnoses") == 1 and text.index("the weights fail") < text.index("healthy: data and weights")
    assert "b step 2 · 2026-11-28 the weights fail: they explain &lt;1% of it" in text
    assert "train longer Layer by layer layer check what was seen data features agrees agree weights open loop" in text
    assert re.findall(r'<a href="(eval[^"]+)"', page) == ["eval/b/diagnosis.html", "eval/a%201/diagnosis.html"]
    elsewhere = make_page(run.path, output=tmp_path / "there" / "page.html").read_text()
    assert '<a href="../act/eval/b/diagnosis.html">' in elsewhere
    # Without its page it is still told, and what cannot be read is named.
    (run.path / "eval" / "b" / "diagnosis.html").unlink()
    damaged = run.path / "eval" / "a 1" / "diagnosis.json"
    for content, said in (
        ('{"schema_version": 1, "env": {}, "policy": {"step": 1}}', "this diagnosis cannot be read"),
        ('{"schema_version": 99}', "written by a newer hlrp"),
        ("{", "diagnosis.json cannot be read"),
    ):
        damaged.write_text(content)
        page = make_page(run.path).read_text()
        assert "the weights fail" in page and "diagnosis.html" not in page and said in page


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_the_page_fits_a_screen_and_a_telephone(diagnosis: Diagnosis, tmp_path: Path) -> None:
    pages = [write_page(diagnosis), make_page(run_with_diagnoses(tmp_path / "act").path)]
    for seen in look_at(pages, (1200, 400), tmp_path / "browser"):
        pictures = 2 if seen.page == pages[0] else 0
        assert seen.scroll_width <= seen.width and (seen.pictures, seen.missing) == (pictures, 0)
