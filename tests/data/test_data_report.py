"""`hlrp data report`: its numbers are those computed by hand, and what it doubts is doubtful."""

import json
import re
import shutil

import av
import numpy as np
import pytest
from command import assert_user_error, hlrp_in_turn
from edits import edit_column, episode_table, tables
from idle_dataset import LENGTH, make_idle_dataset
from make_dataset import make_dataset

from hlrp.data import read_dataset, read_episodes
from hlrp.data.images import BadVideoError
from hlrp.data.report.doubts import Evidence, find_doubts, outliers
from hlrp.data.report.measure import measure
from hlrp.data.report.page import tables as shown_tables
from hlrp.data.report.page import write_page


def evidence(root, **other):
    """An episode table of 4 x 60 frames at 10 fps, of which nothing is doubtful but what is given."""
    table = read_episodes(read_dataset(None, root))
    steps = np.arange(240)
    pictures = np.stack([np.full(240, 5.0), np.full(240, 100.0)]).astype(np.float32)
    values = {"action": np.sin(steps / 5)[:, None].astype(np.float32)}
    stamps = (steps % LENGTH / 10).astype(np.float32)
    told = {
        "table": table,
        "episodes": range(4),
        "values": values,
        "rates": np.zeros(1, bool),
        "stamps": stamps,
        "scores": {"top": pictures},
        "robot": np.full(240, 0.3, np.float32),
        "quiet": np.zeros(240, bool),
        "bad": {},
    }
    return Evidence(**told | other)


def doubts(root, **other):
    return [(d.episode, d.kind, d.frame) for d in find_doubts(evidence(root, **other))]


def changed(array, where, value):
    array = array.copy()
    array[where] = value
    return array


def test_nothing_is_doubtful_without_a_cause(idle_root):
    assert doubts(idle_root) == []


def test_what_is_doubtful_is_named_with_its_place(idle_root, tmp_path):
    usual = evidence(idle_root)
    pictures, action = usual.scores["top"], usual.values["action"]
    still = changed(pictures, (0, slice(80, 95)), 0.0)
    assert doubts(idle_root, scores={"top": still}) == [(1, "frozen", 20)]
    assert doubts(idle_root, scores={"top": still}, robot=np.zeros(240, np.float32)) == [], "the robot stands still too"
    assert doubts(idle_root, scores={"top": still}, robot=None) == [], "without a robot 1.5 s may be a pause"
    long = changed(pictures, (0, slice(80, 115)), 0.0)
    assert doubts(idle_root, scores={"top": long}, robot=None) == [(1, "frozen", 20)]
    black = changed(pictures, (1, [125, 126]), 1.0)
    assert doubts(idle_root, scores={"top": black}) == [(2, "black", 5)]
    assert doubts(idle_root, scores={"top": pictures * 0.04}) == [], "a dark scene is no fault"
    assert doubts(idle_root, values={"action": changed(action, 185, np.nan)}) == [(3, "not finite", 5)]
    assert doubts(idle_root, values={"action": changed(action, 185, 40.0)}) == [(3, "jump", 4), (3, "outlier", 5)]
    assert doubts(idle_root, values={"action": changed(action, [5, 65, 125, 185], 6.0)}) == [], "all do so"
    assert doubts(idle_root, rates=np.ones(1, bool), values={"action": changed(action, 185, 5.0)}) == [], "a speed may"
    gripper = np.repeat([0.0, 1.0, 0.0], [100, 60, 80])[:, None].astype(np.float32)
    assert doubts(idle_root, values={"action": gripper}) == [], "a gripper that opens and closes"
    late = changed(usual.stamps, slice(70, 120), usual.stamps[70:120] + 0.05)
    assert doubts(idle_root, stamps=late) == [(1, "times", 10)]
    assert doubts(idle_root, quiet=changed(usual.quiet, slice(60, 117), True)) == [(1, "idle", None)]
    error = BadVideoError.of(tmp_path, 2, "torn")
    assert doubts(idle_root, bad={2: error}) == [(2, "unreadable", None)]


def test_lengths_are_judged_within_a_task(idle_root):
    table = read_episodes(read_dataset(None, idle_root))
    starts, ends = np.array([0, 70, 140, 230]), np.array([70, 140, 230, 240])
    other = type(table)(table.info, starts, ends, ["a"] * 4, table.video, table.tables)
    stamps = np.concatenate([np.arange(n) / 10 for n in ends - starts]).astype(np.float32)
    assert doubts(idle_root, table=other, stamps=stamps) == [(3, "length", None)]
    apart = type(table)(table.info, starts, ends, ["a", "a", "a", "b"], table.video, table.tables)
    assert doubts(idle_root, table=apart, stamps=stamps) == []


def test_outliers_lie_far_outside_the_range_of_the_others():
    x = np.linspace(0, 1, 1000)
    assert not outliers(x).any() and not outliers(np.array([0.0] * 999 + [1.0])).any()
    assert np.flatnonzero(outliers(np.append(x, [4.5, -3.5, 3.5, np.nan]))).tolist() == [1000, 1001]


@pytest.fixture(scope="module")
def spoiled(idle_root, tmp_path_factory):
    """One action is no number, one dimension never changes."""
    root = shutil.copytree(idle_root, tmp_path_factory.mktemp("report") / "spoiled")

    def spoil(actions):
        actions[:, 1] = 0.5
        actions[130, 0] = np.nan

    edit_column(tables(root)[0], "action", spoil)
    return root


def test_numbers_are_those_computed_by_hand(spoiled, cache, tmp_path):
    report = measure(read_dataset(None, spoiled), pictures=2, cache_root=cache, announce=lambda _: None)
    assert (report.episodes, report.frames, report.fps) == (4, 240, 10)
    assert report.lengths == {"min": 6.0, "median": 6.0, "mean": 6.0, "max": 6.0}
    assert report.idle is not None and report.idle.frames == 50
    assert (report.idle.share, report.idle.at_begin, report.idle.at_end) == (50 / 240, 15 / 240, 20 / 240)
    assert [row.idle for row in report.rows] == [15 / 60, 0, 15 / 60, 20 / 60]
    assert [(t.text, t.episodes, t.frames) for t in report.tasks] == [("task 0", 2, 120), ("task 1", 2, 120)]
    (camera,) = report.cameras
    assert (camera.height, camera.width, camera.codec, camera.files) == (64, 64, "in the tables", 0)
    assert camera.motion["p5"] == 0 and camera.motion["p50"] == pytest.approx(255 / 16, rel=1e-3)
    by_hand = read_columns_of(spoiled)
    action = next(d for d in report.dimensions if (d.column, d.name) == ("action", "x"))
    finite = by_hand[np.isfinite(by_hand)]
    assert (action.min, action.max, action.not_finite) == (finite.min(), finite.max(), 1)
    assert (action.mean, action.std) == (pytest.approx(finite.mean()), pytest.approx(finite.std()))
    constant = next(d for d in report.dimensions if (d.column, d.name) == ("action", "y"))
    assert constant.constant and (constant.mean, constant.std) == (0.5, 0)
    assert [(d.episode, d.kind, d.frame) for d in report.doubts] == [(2, "not finite", 10)]
    assert [p.fatal for p in report.problems if "nan" in p.message] == [True], "as `hlrp data check` says"
    assert list(report.thumbnails) == [2, 0], "doubtful ones first"
    page = tmp_path / "report.html"
    write_page([report], page, "today")
    text = page.read_text(encoding="utf8")
    assert not re.findall(r"https?:|<script|<link|src=\"(?!data:)", text), "nothing from outside"
    assert text.count("<img") == 6
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    told = json.loads(json.dumps(report.to_json()))
    assert f"{told['idle']['share']:.1%} of the frames" in plain
    for dimension in told["dimensions"]:
        cells = " ".join(f"{dimension[k]:.4g}".replace("-", "−") for k in ("min", "max", "mean", "std"))
        assert f"{dimension['column']}.{dimension['name']} {cells}" in plain
    assert "action: 1 rows hold no number" in plain
    assert {t.title for t in shown_tables(report)} >= {"dataset", "cameras", "tasks", "numbers", "doubtful episodes"}


def read_columns_of(root):
    import pyarrow.parquet as pq

    return np.array(pq.read_table(tables(root)[0]).column("action").to_pylist(), np.float32)[:, 0].astype(np.float64)


def test_video_alone_and_mistakes(tmp_path, monkeypatch):
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path / "cache"))
    root = make_idle_dataset(tmp_path / "video", [[(10, 30)], []], action=False, state=False)
    page = tmp_path / "new" / "page.html"
    told, lines, nowhere, folder = hlrp_in_turn(
        [
            ["data", "report", root, "--json"],
            ["data", "report", root, root, "--output", page],
            ["data", "report", tmp_path / "absent"],
            ["data", "report", root, "--output", tmp_path],
        ]
    )
    assert told.code == 0, told.err
    (source,) = told.json()["sources"]
    assert source["dimensions"] == [] and source["idle"]["share"] == 15 / 120
    assert "measuring motion in 120 frames" in told.err and "reading frames: 120/120" in told.err
    assert lines.code == 0, lines.err
    assert "measuring" not in lines.err, "what was decoded once is remembered"
    assert lines.out.count("12.5% of the frames") == 2 and f"page      {page}" in lines.out
    assert "this is video alone" in page.read_text(encoding="utf8")
    assert_user_error(nowhere, "there is no dataset folder")
    assert_user_error(folder, "--output", "report.html")


def test_all_codecs_of_a_camera_are_named(tmp_path):
    """As `info.json`, which knows one alone, does not; the second episode's file is encoded otherwise."""
    root = make_dataset(tmp_path / "data", size=64)
    (first,) = root.rglob("*.mp4")
    with av.open(str(first)) as old, av.open(str(first.with_name("file-001.mp4")), "w") as new:
        stream = new.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in old.decode(video=0):
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
    edit_column(episode_table(root), "videos/observation.image/file_index", lambda numbers: np.arange(len(numbers)))
    report = measure(read_dataset(None, root), pictures=0, cache_root=tmp_path / "cache", announce=lambda _: None)
    (camera,) = report.cameras
    assert (camera.codec, camera.fps, camera.files) == ("av1 yuv420p 1, h264 yuv420p 1", 10, 2)
