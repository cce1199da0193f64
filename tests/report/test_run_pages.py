"""Run pages: what they say of real runs, of damaged ones and of evaluations, and how they look in a browser."""

import base64
import json
import re
import shutil
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from command import assert_user_error, hlrp_in_turn
from page_browser import CHROMIUM, look_at

from hlrp.errors import UserError
from hlrp.evaluation.request import Episode, EvalResult, TaskResult
from hlrp.evaluation.statistics import paired_difference, wilson_interval
from hlrp.files import write_json
from hlrp.report.curves import draw, series_of
from hlrp.report.evaluations import VideoRoom, read_evaluations
from hlrp.report.page import make_page
from hlrp.report.side import curves

ARCHIVE = Path(__file__).parents[1] / "compatibility" / "files-0.1.0.tar.xz"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGM4IScHAAK2AQU0pnWqAAAAAElFTkSuQmCC"
)
"""A picture of one pixel."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantizer, a latent table, a foundation model, a policy from it, all by Lightning; ACT, by LeRobot."""
    root = tmp_path_factory.mktemp("runs").resolve()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    for path in root.rglob("*"):
        if path.suffix in (".json", ".yaml") and "@ROOT@" in (text := path.read_text()):
            path.write_text(text.replace("@ROOT@", str(root)))
    # The archive's weights are zeroed, with new hashes: the quantizer is again the one that the table names.
    table = json.loads((root / "table" / "manifest.json").read_text())
    manifest = root / "laq" / "checkpoints" / "000004" / "pretrained_model" / "manifest.json"
    said = json.loads(manifest.read_text()) | {"weights_sha256": table["identity"]["laq_sha256"]}
    manifest.write_text(json.dumps(said))
    return root


def film(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        for shade in range(0, 250, 50):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def evaluate(run: Path, outcomes: str, *, seed: int = 1000, filmed: tuple[int, ...] = (), name: str = "a") -> Path:
    """Results in a run as `hlrp eval` leaves them: an episode for each letter, `+` a success."""
    folder = run / "eval" / name
    folder.mkdir(parents=True)
    episodes = [Episode("push-v3", i, seed + i, sign == "+", 2.0 * i, 10) for i, sign in enumerate(outcomes)]
    videos = [f"videos/push-v3/episode_{i:03d}_{'success' if episodes[i].success else 'failure'}.mp4" for i in filmed]
    for video in videos:
        film(folder / video)
    provenance = {
        "created": "2026-11-27T10:00:00+00:00",
        "policy": {"path": str(run / "checkpoints" / "000002" / "pretrained_model"), "step": 2, "type": "act"},
        "env": {"type": "metaworld_light"},
        "seed": seed,
        "versions": {"mujoco": "3.8.1"},
    }
    result = EvalResult(folder, provenance, [TaskResult("push-v3", episodes, videos, 1.0)], warnings=["few <seeds>"])
    write_json(folder / "results.json", result.to_json())
    return folder


def copied(runs: Path, name: str, to: Path) -> Path:
    shutil.copytree(runs / name, to, symlinks=True, ignore=shutil.ignore_patterns("report.html"))
    return to


def text_of(page: Path) -> str:
    """What is read on a page, tags and repeated spaces left out."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))


def outcomes_on(page: Path) -> list[str]:
    """The grids of outcomes, as letters like those of `evaluate`."""
    grids = re.findall(r'<ul class="outcomes">(.*?)</ul>', page.read_text(), re.DOTALL)
    return ["".join("+" if c == "yes" else "-" for c in re.findall(r'<li class="(\w+)"', grid)) for grid in grids]


def test_a_folder_of_runs_has_an_index_and_a_page_of_each(runs: Path) -> None:
    index = make_page(runs)
    assert index == runs / "index.html"
    links = re.findall(r'<a href="([^"]+)"', index.read_text())
    # The newest first.
    assert links == [f"{name}/report.html" for name in ("act", "latent_expert", "foundation", "laq")]
    assert re.search(r"act finished 2026-11-26 14:40 86\.84", text_of(index))
    for link in links:
        page = (index.parent / link).read_text()
        assert "Finished after step" in page and "0.6.1" in text_of(index.parent / link)
        assert not re.search(r"<script|https?://|<link|@import", page)
        assert not re.search(r'(?:src|href)="(?!data:|\.\./)', page)


def test_the_chain_of_a_run_is_followed_to_its_beginning(runs: Path) -> None:
    for name in ("laq", "table", "foundation"):
        make_page(runs / name)
    page = make_page(runs / "latent_expert")
    text = text_of(page)
    table = json.loads((runs / "table" / "manifest.json").read_text())["identity"]
    links = re.findall(r'<a href="([^"]+)">([^<]+)', page.read_text())
    # Foundation model, its latent table, and the table's quantizer, which only a hash leads to.
    assert links == [(f"../{name}/report.html", name) for name in ("foundation", "table", "laq")]
    for link, _ in links:
        assert (page.parent / link).is_file()
    assert f"SHA-256 {table['laq_sha256']}" in text
    assert f"a dataset data · 3 episodes, 36 frames, 10 fps fingerprint {table['dataset_fingerprint']}" in text
    assert text.count(table["dataset_fingerprint"]) == 1 and text.count("a dataset data · as above") == 3
    # A page elsewhere links from there, and to nothing that is not there.
    (runs / "table" / "report.html").unlink()
    there = make_page(runs / "latent_expert" / "checkpoints" / "000002", output=runs / "a" / "b" / "page.html")
    assert re.findall(r'<a href="([^"]+)"', there.read_text()) == [
        "../../foundation/report.html",
        "../../laq/report.html",
    ]


def test_curves_and_scores_are_those_of_the_metrics(runs: Path, tmp_path: Path) -> None:
    run = copied(runs, "laq", tmp_path / "laq")
    rows = [{"step": s, "loss": 4.0 / s, "lr": 0.001, "rss_mb": 900.0 + s, "data_wait": 0.25} for s in (1, 2, 4)]
    rows += [{"step": s, "val_loss": v, "val_psnr": v} for s, v in ((2, 0.5), (3, 0.25), (4, 0.75))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = text_of(make_page(run))
    for said in ("learning rate · last 0.001", "memory of the process, MB · last 904", "waiting for data · last 0.25"):
        assert said in text
    assert "loss, step 2: 2 " in text and "val_loss, step 3: 0.25" in text
    # Less loss is better, more PSNR is: last and best with their steps.
    assert re.search(r"val_loss 0\.75 4 0\.25 3 .*val_psnr 0\.75 4 0\.75 4", text)


def test_rollouts_of_old_runs_are_scores_and_their_seconds_are_not() -> None:
    rows = [{"step": s, "pc_success": 50.0, "avg_sum_reward": 1.0, "eval_s": 9.0, "eval_ep_s": 3.0} for s in (0, 3)]
    rows.append({"step": 4, "eval_success": 0.5, "eval_success_libero_goal_0": 0.5})
    names = {title: [chart.title for chart in charts] for title, charts in curves(rows)}
    assert names == {
        "Held-out data": ["pc_success", "eval_success", "eval_success_libero_goal_0"],
        "All other metrics": ["avg_sum_reward", "eval_s", "eval_ep_s"],
    }


def test_many_rows_are_thinned_to_means_and_ranges() -> None:
    rows = [{"step": s, "loss": float(s % 2)} for s in range(1, 1001)]
    series = series_of(rows, "loss")
    assert series is not None and len(series.points) == 200
    assert series.points[0] == (5, 0.6, 0.0, 1.0)  # of 1, 0, 1, 0, 1
    assert series.last == (1000, 0.0, 0.0, 1.0)  # the last value itself
    lost = series_of([{"step": 1, "loss": None}, {"step": 2, "loss": 3}, {"step": 3, "loss": float("inf")}], "loss")
    assert lost is not None and ([p.value for p in lost.points], lost.lost) == ([3.0], 2)
    assert series_of([{"step": 1, "loss": "x"}], "loss") is None


def test_a_drawing_has_its_points_where_its_ticks_say() -> None:
    series = series_of([{"step": 0, "x": 0.0}, {"step": 100, "x": 1.0}], "x")
    assert series is not None
    chart = draw("x", [series])
    (first, last), at = chart.lines[0].corners.split(), {t.text: t.at for t in chart.across}
    assert (float(first.split(",")[0]), float(last.split(",")[0])) == (at["0"], at["100"])
    up = {t.text: t.at for t in chart.up}
    assert (float(first.split(",")[1]), float(last.split(",")[1])) == (up["0"], up["1"]) and up["0"] > up["1"]
    falling = series_of([{"step": s, "x": 10.0**-s} for s in range(4)], "x")
    assert falling is not None
    log = draw("x", [falling])
    assert log.log and [t.text for t in log.up] == ["0.001", "0.01", "0.1", "1"]
    assert np.diff([t.at for t in log.up]) == pytest.approx([-47.33] * 3, abs=0.01)


def test_an_evaluation_with_intervals_outcomes_and_films(runs: Path, tmp_path: Path) -> None:
    run = copied(runs, "act", tmp_path / "act")
    folder = evaluate(run, "-++-+-++", filmed=(0, 1, 2, 3))
    page = make_page(run)
    low, high = wilson_interval(5, 8)
    assert f"push-v3 5/8 62% {low:.0%} to {high:.0%} 7.0 10" in text_of(page)
    assert "⚠ few &lt;seeds&gt;" in page.read_text()
    assert outcomes_on(page) == ["-++-+-++"]
    assert 'title="seed 1003: failure, return 6, 10 steps"' in page.read_text()
    # First failures first, each the very file.
    shown = r'<video [^>]*aria-label="push-v3, (.*?)" src="data:video/mp4;base64,(.*?)"'
    videos = re.findall(shown, page.read_text())
    assert [label for label, _ in videos] == [
        *("failure, seed 1000", "failure, seed 1003"),
        *("success, seed 1001", "success, seed 1002"),
    ]
    first = folder / "videos" / "push-v3" / "episode_000_failure.mp4"
    assert base64.b64decode(videos[0][1]) == first.read_bytes()
    alone = make_page(folder)
    assert alone == folder / "report.html"
    assert "5 of 8 episodes succeeded: 62%" in text_of(alone) and "a policy act" in text_of(alone)
    assert re.findall(r'<a href="([^"]+)"', alone.read_text()) == ["../../report.html"]


def test_films_beyond_the_limit_are_named(runs: Path, tmp_path: Path) -> None:
    folder = evaluate(tmp_path / "act", "-+-", filmed=(0, 1, 2))
    size = (folder / "videos" / "push-v3" / "episode_000_failure.mp4").stat().st_size
    (found,), _ = read_evaluations([folder / "results.json"], VideoRoom(size))
    assert [video.uri is not None for video in found.videos] == [True, False, False]
    (folder / "videos" / "push-v3" / "episode_001_success.mp4").unlink()
    text = text_of(make_page(folder))
    assert "1 more video, gone or beyond the 24 MB" in text and "episode_001_success.mp4" in text


def test_beside_another_run(runs: Path, tmp_path: Path) -> None:
    ours, theirs = (copied(runs, "act", tmp_path / name) for name in ("new", "old"))
    evaluate(ours, "+++++++-")
    evaluate(theirs, "-----+--")
    evaluate(theirs, "--", seed=5, name="b")  # newer, but of other episodes: no rate to stand beside ours
    config = (theirs / "config.yaml").read_text()
    (theirs / "config.yaml").write_text(config.replace("seed: 1000", "seed: 7"))
    page = make_page(ours, against=[theirs, runs / "laq"])
    text = text_of(page)
    paired = paired_difference([c == "+" for c in "+++++++-"], [c == "+" for c in "-----+--"])
    assert f"+75 points of success, 95 % interval {100 * paired.low:+.0f} to {100 * paired.high:+.0f}, 8 pairs" in text
    assert "(6 only here, 0 only there): better" in text
    assert outcomes_on(page) == ["+++++++-", "+++++++-", "-----+--"]
    assert "trainer.seed 1000 7 1000" in text
    assert "success on the same episodes 0.875 0.125 –" in text and "loss 86.84 86.84 0.01455" in text
    assert "Not compared: laq was not evaluated." in text
    shutil.rmtree(theirs / "eval")
    evaluate(theirs, "-----+--", seed=5)
    assert "Not compared: the two sides were not evaluated on the same episodes" in text_of(
        make_page(ours, against=[theirs])
    )


@pytest.mark.parametrize("content", ["{", '{"started": 5}', '{"schema_version": 99}'])
def test_damage_is_told_and_stops_no_page(runs: Path, tmp_path: Path, content: str) -> None:
    run = copied(runs, "act", tmp_path / "act")
    (run / "run.json").write_text(content)
    (run / "config.yaml").write_text("a: [")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": tru\n[1]\n{"step": 4, "loss": 1.5}\n')
    evaluate(run, "+-")
    (run / "eval" / "b").mkdir()
    (run / "eval" / "b" / "results.json").write_text('{"schema_version": 1, "episodes": [], "tasks": []}')
    (run / "eval" / "c").mkdir()
    (run / "eval" / "c" / "results.json").write_text("[" * 100_000)
    text = text_of(make_page(run))
    assert "run.json cannot be read" in text or "newer hlrp" in text
    assert "metrics.jsonl: 2 damaged lines left out (3, 4)" in text and "loss · last 1.5" in text
    assert "these results cannot be read" in text and "results.json cannot be read" in text
    assert "push-v3 1/2 50%" in text


def test_a_failed_run_says_why_and_shows_the_end_of_its_log(runs: Path, tmp_path: Path) -> None:
    run = copied(runs, "act", tmp_path / "act")
    said = json.loads((run / "run.json").read_text()) | {"status": "failed", "reason": "the disk is <full>"}
    (run / "run.json").write_text(json.dumps(said))
    (run / "log.txt").write_text("".join(f"line {i}\n" for i in range(30)))
    page = make_page(run)
    assert 'class="verdict fail"' in page.read_text()
    assert "Failed after step 2 of 2: the disk is &lt;full&gt;" in page.read_text()
    assert "line 29" in page.read_text() and "line 9\n" not in page.read_text()


def test_of_a_quality_card_nothing_that_runs_or_loads_gets_into_the_page(runs: Path, tmp_path: Path) -> None:
    run = copied(runs, "laq", tmp_path / "laq")
    (run / "laq-report").mkdir()
    card = (
        f'<main><header><h1>no</h1></header><section onclick="x()"><h2>Gate &amp; all</h2><img src="{PIXEL}" alt="a">'
        '<img src="https://example.org/x.png" alt="b"><script>bad()</script><a href="javascript:x()">kept</a>'
        '<svg viewBox="0 0 1 1"><rect class="bar" width="1" onload="x()"/></svg><iframe src="x"></iframe></section>'
        "</main>"
    )
    (run / "laq-report" / "report.html").write_text(f"<style>no</style>{card}<p>no</p>")
    page = make_page(run).read_text()
    inside = page.partition('<div class="card">')[2].partition("</div></section>")[0].strip()
    assert inside == (
        f'<section><h3>Gate &amp; all</h3><img src="{PIXEL}" alt="a"><img alt="b">kept'
        '<svg viewbox="0 0 1 1"><rect class="bar" width="1"></rect></svg></section>'
    )


def test_mistakes_are_one_message(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        ([tmp_path / "none"], ["does not exist", "RUN"]),
        ([tmp_path / "empty"], ["holds no run and no evaluation", "hlrp runs list"]),
        ([runs / "data"], ["holds no run"]),
        ([runs / "act", "--against", tmp_path / "none"], ["does not exist", "--against"]),
        ([runs, "--against", runs / "act"], ["4 runs", "name one of them"]),
        ([runs / "table", "--against", runs / "act"], ["a latent table", "--against"]),
        ([runs / "act", "--output", tmp_path], ["is a folder", "--output"]),
    ]
    done = hlrp_in_turn([["report", *arguments] for arguments, _ in cases])
    for (_, mentions), found in zip(cases, done, strict=True):
        assert_user_error(found, *mentions)
        assert found.heavy <= {"pydantic", "omegaconf"}, found.heavy
    with pytest.raises(UserError, match="newer hlrp"):
        folder = evaluate(tmp_path / "new", "+")
        (folder / "results.json").write_text('{"schema_version": 99, "episodes": []}')
        make_page(folder)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_in_a_browser_nothing_is_missing_and_nothing_overflows(runs: Path, tmp_path: Path) -> None:
    for name in ("new", "old"):
        evaluate(copied(runs, "act", tmp_path / name), "+-" * 30, filmed=(0, 1))
    laq = copied(runs, "laq", tmp_path / "laq")
    (laq / "laq-report").mkdir()
    wide = f'<div class="wide"><table><tr>{f"<td><img src={PIXEL!r} width=96 alt=x></td>" * 12}</tr></table></div>'
    (laq / "laq-report" / "report.html").write_text(f"<main>{wide}</main>")
    pages = [
        make_page(tmp_path / "new", against=[tmp_path / "old"]),
        make_page(laq),
        make_page(runs / "latent_expert"),
        make_page(runs),
        make_page(runs / "table"),
    ]
    faulty = tmp_path / "faulty.html"
    faulty.write_text('<!doctype html><p style="width: 700px">x</p><img src="data:image/png;base64,AAAA" alt="x">')
    seen = look_at([*pages, faulty], (1200, 400), tmp_path / "browser")
    wide, narrow = (s for s in seen if s.page == faulty)
    assert (wide.scroll_width, wide.missing) == (1200, 1) and narrow.scroll_width > 700  # faults would be seen
    good = [s for s in seen if s.page != faulty]
    assert [(s.page, s.width) for s in good] == [(page, width) for page in pages for width in (1200, 400)]
    assert [s for s in good if s.scroll_width > s.width] == []
    assert [s for s in good if s.missing] == []
    assert [s.pictures for s in good if s.page == pages[1]] == [12, 12]
    assert [s.films for s in good if s.page == pages[0]] == [2, 2]
