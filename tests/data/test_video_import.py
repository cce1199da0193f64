"""Videos of every kind as a dataset: copies are the same, encoded ones show the right frames, the rest is refused."""

import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from index_videos import KINDS, Kind, number_of, picture, write_video
from interruptions import killed_before_write
from numpy.typing import NDArray
from PIL import Image

from hlrp.data.checks import dataset_problems
from hlrp.data.dataset_info import read_dataset
from hlrp.data.decode import sequential_frames
from hlrp.data.importing import ImportRequest, ImportResult, import_video
from hlrp.data.importing.clip import Clip
from hlrp.data.importing.image_stats import image_stats
from hlrp.data.importing.plan import make_plan
from hlrp.data.importing.sources import find_sources
from hlrp.data.video import VideoReader
from hlrp.errors import HlrpError, UserError

SIZE = (48, 64)
FRAMES = 12
_VP9 = Kind("libvpx-vp9", options={"crf": "8", "b": "0", "g": "5", "cpu-used": "8", "deadline": "realtime"})
_CLOSED = Kind(options={"crf": "8", "x264-params": "keyint=4:min-keyint=4:scenecut=0:bframes=2:open-gop=0"})
LATE = 5.0


def clip(path: Path, kind: Kind = KINDS["h264"], numbers: range = range(FRAMES), size: tuple[int, int] = SIZE) -> Path:
    write_video(path, list(numbers), kind, size=size)
    return path


def sound_clip(path: Path, fps: Fraction | int = 10, *, video: bool = True, sound: bool = True) -> Path:
    """A clip of any rate, with a second of silence beside it."""
    with av.open(str(path), "w") as container:
        if video:
            stream = container.add_stream("libx264", fps, options={"crf": "8", "g": "6"})
            stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        if sound:
            silence = container.add_stream("aac", 8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(silence.encode(frame))
            container.mux(silence.encode(None))
        for number in range(FRAMES if video else 0):
            shown = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(64, 48, "yuv420p")
            shown.pts = number
            container.mux(stream.encode(shown))
        if video:
            container.mux(stream.encode(None))
    return path


def pictures(folder: Path, numbers: range = range(FRAMES)) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        Image.fromarray(picture(number)).resize((64, 48), Image.Resampling.NEAREST).save(folder / f"frame-{number}.png")
    return folder


def frames_of(root: Path) -> list[NDArray[np.uint8]]:
    """Frames of each episode, `[n, H, W, 3]`."""
    found: dict[int, list[NDArray[np.uint8]]] = {}
    for chunk in sequential_frames(read_dataset(None, root)):
        found.setdefault(chunk.episode, []).append(chunk.frames.transpose(0, 2, 3, 1))
    return [np.concatenate(found[e]) for e in sorted(found)]


def numbers_of(root: Path) -> list[list[int]]:
    return [[number_of(frame) for frame in episode] for episode in frames_of(root)]


def record_of(root: Path) -> dict[str, dict[str, Any]]:
    lines = (root / "meta/hlrp_import.jsonl").read_text().splitlines()
    return {row["source"]: row for row in map(json.loads, lines)}


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def run(source: Path | str, output: Path, **options: Any) -> ImportResult:
    return import_video(ImportRequest(str(source), output, **({"workers": 1} | options)))


COPIED = ("av1", "b-frames", "bt709", "closed", "h264", "hevc", "late", "matroska", "open", "sound", "vp9", "webm")
ENCODED = {
    "avi": "no times of showing",
    "mpeg4": "codec mpeg4",
    "numbered": "pictures",
    "odd": "size 49x65",
    "ten": "pixels yuv420p10le",
    "turned": "turned",
    "turned180": "turned",
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a clip of every kind at 10 fps, and the dataset that it became."""
    source = tmp_path_factory.mktemp("import") / "source"
    clip(source / "av1.mp4", KINDS["AV1"])
    clip(source / "b-frames.mp4", KINDS["B-frames"])
    clip(source / "bt709.mp4", KINDS["BT.709"])
    clip(source / "closed.mp4", _CLOSED)
    clip(source / "h264.mp4")
    clip(source / "hevc.mov", KINDS["HEVC"])
    clip(source / "late.mkv", Kind(times=lambda i: LATE + i / 10))
    clip(source / "matroska.mkv", KINDS["B-frames"])
    clip(source / "open.mp4", KINDS["open GOP"])
    sound_clip(source / "sound.mp4")
    clip(source / "vp9.mp4", _VP9)
    clip(source / "webm.webm", _VP9)
    clip(source / "avi.avi", KINDS["B-frames"])
    clip(source / "mpeg4.mp4", KINDS["MPEG-4"])
    pictures(source / "numbered")
    clip(source / "odd.webm", _VP9, size=(49, 65))
    clip(source / "ten.mp4", KINDS["BT.709, full range, 10-bit"])
    clip(source / "turned.mp4", KINDS["turned 90"], size=(64, 48))
    clip(source / "turned180.mp4", KINDS["turned 180"])
    (source / "notes.md").write_text("not a video")
    output = source.parent / "dataset"
    result = run(source, output)
    assert (result.episodes, result.fps, result.size) == (len(COPIED) + len(ENCODED), 10.0, SIZE)
    return source, output


def test_every_frame_of_every_kind_is_there_in_its_place(imported: tuple[Path, Path]) -> None:
    _, root = imported
    for name, found in zip(record_of(root), numbers_of(root), strict=True):
        assert found == list(range(FRAMES)), name


def test_streams_are_copied_where_that_is_right(imported: tuple[Path, Path]) -> None:
    source, root = imported
    record = record_of(root)
    assert {name: row["reason"] for name, row in record.items()} == {**dict.fromkeys(COPIED, ""), **ENCODED}
    for name in COPIED:
        path = next(source.glob(f"{name}.*"))
        place = root / f"videos/observation.images.video/chunk-000/file-{record[name]['episode_index']:03d}.mp4"
        assert packets(place) == packets(path), name
        with av.open(str(place)) as container:
            assert [stream.type for stream in container.streams] == ["video"], name
            assert container.streams.video[0].start_time == 0


def test_first_and_last_frames_are_those_of_the_source(imported: tuple[Path, Path]) -> None:
    source, root = imported
    episodes = frames_of(root)
    for name in COPIED:
        begins = LATE if name == "late" else 0.0
        reader = VideoReader(next(source.glob(f"{name}.*")), 0)
        for place in (0, FRAMES - 1):
            expected = reader.read(np.asarray([begins + place / 10]), 0)[0]
            found = episodes[record_of(root)[name]["episode_index"]][place]
            assert np.array_equal(found, expected), (name, place)
        reader.close()


def test_colours_of_encoded_clips_stay(imported: tuple[Path, Path]) -> None:
    """Blocks of one colour: encoding moves them by a few steps, the wrong matrix by more than ten."""
    source, root = imported
    episodes, record = frames_of(root), record_of(root)
    for name in ("mpeg4", "ten", "turned"):
        with_turn = VideoReader(next(source.glob(f"{name}.*")), 0)
        expected = with_turn.read(np.asarray([0.5]), 0)[0].astype(int)
        difference = np.abs(episodes[record[name]["episode_index"]][5].astype(int) - expected)
        assert np.median(difference) <= 4, name
        with_turn.close()


def test_the_dataset_has_no_faults_and_lerobot_reads_it(imported: tuple[Path, Path]) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    _, root = imported
    info = read_dataset(None, root)
    assert "action" not in info.features and info.cameras == ["observation.images.video"]
    assert [p.message for p in dataset_problems(info, needs_statistics=False)] == []
    dataset = LeRobotDataset("local/dataset", root=root, video_backend="pyav")
    assert (dataset.num_episodes, dataset.num_frames) == (info.episodes, info.episodes * FRAMES)
    for index in (0, FRAMES + 3, dataset.num_frames - 1):
        item = dataset[index]
        shown = (item["observation.images.video"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        assert number_of(shown) == index % FRAMES
    assert item["task"] == "webm"
    stats = dataset.meta.stats["observation.images.video"]
    assert stats["mean"].shape == (3, 1, 1) and 0 < stats["mean"].min() < stats["mean"].max() < 1


def test_statistics_are_lerobots(imported: tuple[Path, Path]) -> None:
    from lerobot.datasets.compute_stats import get_feature_stats

    source, _ = imported
    path = source / "closed.mp4"  # key frames 0, 4 and 8
    found = image_stats(path)
    reader = VideoReader(path, 0)
    frames = reader.read(np.asarray([0.0, 0.4, 0.8]), 0).transpose(0, 3, 1, 2)
    reader.close()
    expected = get_feature_stats(frames, axis=(0, 2, 3), keepdims=True)
    assert found["count"] == [3.0]
    for name in ("min", "max", "mean", "std"):
        assert np.allclose(found[name], expected[name].reshape(-1) / 255, atol=1e-3), name
    for name in ("q01", "q50", "q99"):  # LeRobot's come from bins
        assert np.allclose(found[name], expected[name].reshape(-1) / 255, atol=0.01), name


def test_rates_times_and_numbers_beside_the_video(tmp_path: Path) -> None:
    """29.97 fps is kept as it is; 25 fps and uneven frames are shown at the nearest time, and so are their states."""
    source = tmp_path / "source"
    source.mkdir()
    ntsc = Fraction(30000, 1001)
    for name, rate in (("a", ntsc), ("b", ntsc), ("c", 25)):
        sound_clip(source / f"{name}.mp4", rate, sound=False)
    uneven = [0.0, 0.033, 0.067, 0.1, 0.4, 0.434, 0.467, 0.5, 0.534, 0.567, 0.6, 0.634]
    clip(source / "d.mkv", Kind(times=lambda i: uneven[i]))
    for name in "abcd":
        rows = "".join(f"{i},{-i}\n" for i in range(FRAMES))
        (source / f"{name}.csv").write_text(f"x,y\n{rows}")
    root = tmp_path / "dataset"
    run(source, root, camera="top", task="look")
    info = read_dataset(None, root)
    assert info.fps == float(ntsc)
    assert [p.message for p in dataset_problems(info)] == []
    assert info.features["observation.state"]["names"] == ["x", "y"]
    assert [record_of(root)[n]["reason"] for n in "abcd"] == ["", "", *["of another rate or uneven times"] * 2]
    found = numbers_of(root)
    at_25 = [min(range(FRAMES), key=lambda i: abs(i / 25 - k / float(ntsc))) for k in range(14)]
    gap = [min(range(FRAMES), key=lambda i: abs(uneven[i] - k / float(ntsc))) for k in range(20)]
    assert found[:2] == [list(range(FRAMES))] * 2
    assert found[2] == at_25
    assert found[3] == gap and gap.count(3) > 4, "frame 3 is shown through the gap"
    table = pq.read_table(next((root / "data").rglob("*.parquet")))
    states = np.asarray(table["observation.state"].to_pylist())
    assert states[:, 0].tolist() == [n for episode in found for n in episode]
    assert (states[:, 1] == -states[:, 0]).all()


def test_captions_cut_at_key_frames_are_copied_and_elsewhere_encoded(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clip(source / "a/long.mp4", _CLOSED, range(20))
    clip(source / "other.mp4")
    captions = tmp_path / "captions.csv"
    captions.write_text(
        "file,caption,start,end\nlong.mp4,push,0.4,1.2\na/long,pull,0.3,0.9\nlong,all of it,,\n"
        "long,end,1.6,2.0\nlong,half,0.4,0.7\n"
    )
    root = tmp_path / "dataset"
    result = run(source, root, captions=captions, task="wait")
    assert (result.copied, result.encoded) == (
        4,
        {"begins between key frames": 1, "ends inside a group of pictures": 1},
    )
    parts = [(0, 20), (3, 9), (4, 7), (4, 12), (16, 20)]
    assert numbers_of(root) == [*([*range(*part)] for part in parts), [*range(FRAMES)]]
    episodes = pq.read_table(next((root / "meta/episodes").rglob("*.parquet")))
    assert episodes["tasks"].to_pylist() == [[t] for t in ("all of it", "pull", "half", "push", "end", "wait")]


def test_a_copy_that_shows_other_frames_is_encoded_instead(tmp_path: Path) -> None:
    """A stream that is refreshed column by column: its files say that decoding can begin where it takes a second."""
    source = tmp_path / "source"
    clip(source / "refreshed.mp4", Kind(options={"crf": "8", "x264-params": "intra-refresh=1:keyint=5:bframes=0"}))
    captions = _captions(tmp_path, "file,caption,start,end\nrefreshed,look,0.5,1\n")
    assert run(source, tmp_path / "dataset", **captions).encoded == {"the copy is not the same": 1}
    assert numbers_of(tmp_path / "dataset") == [list(range(5, 10))]


def test_scenes_and_seconds_split(tmp_path: Path) -> None:
    """Three scenes of one picture each; then episodes of at most half a second, which begin at key frames."""
    source = tmp_path / "source"
    write_video(source / "a.mp4", [0] * 8 + [0xFFFF] * 8 + [0] * 8, _CLOSED, size=SIZE)
    run(source, tmp_path / "scenes", scene_cuts=True)
    assert [len(e) for e in numbers_of(tmp_path / "scenes")] == [8, 8, 8]
    result = run(source, tmp_path / "parts", max_seconds=0.5)
    assert [len(e) for e in numbers_of(tmp_path / "parts")] == [4] * 5 + [4]
    assert result.copied == 6


def test_killed_anywhere_the_same_command_continues_to_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in "abc":
        clip(source / f"{name}.mp4")
    pictures(source / "d", range(3))
    whole = tmp_path / "whole" / "dataset"
    whole.parent.mkdir()
    run(source, whole)
    output = tmp_path / "dataset"
    number, kills = 1, 0
    while killed_before_write(number, lambda: run(source, output)):
        if output.exists():  # complete, and only what it was made of was not removed yet
            break
        number, kills = number + 7, kills + 1
    assert kills >= 3
    assert content(output) == content(whole)


def test_processes_do_not_change_a_byte_and_what_is_bad_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in "ac":
        clip(source / f"{name}.mp4")
    (source / "b.mp4").write_bytes(b"")
    for workers in (1, 2):
        (tmp_path / f"by-{workers}").mkdir()
        result = run(source, tmp_path / f"by-{workers}" / "d", skip_bad=True, workers=workers)
        assert result.left_out == [("b", "the file is empty")]
    assert content(tmp_path / "by-1" / "d") == content(tmp_path / "by-2" / "d")


def _edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _captions(folder: Path, text: str, name: str = "captions.csv") -> dict[str, Any]:
    (folder / name).write_text(text)
    return {"captions": folder / name}


def _make(name: str, write: Callable[[Path], Any]) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        clip(folder / "source/good.mp4")
        write(folder / "source" / name)
        return {}

    return make


def _captioned(text: str, name: str = "captions.csv") -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        clip(folder / "source/good.mp4")
        return _captions(folder, text, name)

    return make


def _asked(**options: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {**_captioned("file,caption\ngood,look\n")(folder), **options}


def _cut(path: Path, kind: Kind, part: float) -> None:
    clip(path, kind, range(60))
    _edit(path, lambda data: data[: int(len(data) * part)])


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def _version_21(folder: Path) -> dict[str, Any]:
    clip(folder / "source/videos/good.mp4")
    (folder / "source/meta").mkdir()
    (folder / "source/meta/info.json").write_text('{"codebase_version": "v2.1"}')
    return {}


def _table(text: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        clip(folder / "source/good.mp4")
        (folder / "source/good.csv").write_text(text)
        return {}

    return make


def _two_tables(folder: Path) -> dict[str, Any]:
    clip(folder / "source/more.mp4")
    return _table("x\n" + "1\n" * FRAMES)(folder)


def _picture_gap(path: Path) -> None:
    pictures(path)
    (path / "frame-5.png").unlink()


def _picture_sizes(path: Path) -> None:
    pictures(path)
    Image.new("RGB", (10, 10)).save(path / "frame-5.png")


def _list(text: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        clip(folder / "source/good.mp4")
        (folder / "files.txt").write_text(text)
        return {"source": str(folder / "files.txt")}

    return make


def _nothing(folder: Path) -> dict[str, Any]:
    (folder / "source").mkdir()
    (folder / "source/notes.md").write_text("no video")
    return {}


def _inside(folder: Path) -> dict[str, Any]:
    clip(folder / "source/good.mp4")
    return {"output": folder / "source/dataset"}


def _there(folder: Path) -> dict[str, Any]:
    (folder / "dataset").mkdir()
    return _asked()(folder)


BROKEN: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "empty": (_make("bad.mp4", lambda p: p.write_bytes(b"")), "bad: the file is empty"),
    "text": (_make("bad.mp4", lambda p: p.write_text("hello\n" * 99)), "bad: it holds text, no video"),
    "bytes": (_make("bad.mp4", lambda p: p.write_bytes(bytes(range(256)) * 9)), "bad: it cannot be read as video"),
    "pointer": (
        _make("bad.mp4", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")),
        "git lfs pull",
    ),
    "cut mp4": (_make("bad.mp4", lambda p: _cut(p, KINDS["h264"], 0.6)), "its table of frames is not there"),
    "cut mkv": (_make("bad.mkv", lambda p: _cut(p, KINDS["h264"], 0.4)), "bad: it is cut off"),
    "cut webm": (_make("bad.webm", lambda p: _cut(p, _VP9, 0.4)), "bad: it is cut off"),
    "sound": (_make("bad.mp4", lambda p: sound_clip(p, video=False)), "bad: it holds sound but no video"),
    "no frames": (_make("bad.mp4", _no_frames), "bad: it"),
    "other size": (_make("x.mp4", lambda p: clip(p, size=(32, 32))), "good is 48x64, x is 32x32"),
    "same name": (_make("good.mkv", clip), "two videos are called 'good'"),
    "picture missing": (_make("shots", _picture_gap), "picture 5 is missing"),
    "picture sizes": (_make("shots", _picture_sizes), "its pictures have different sizes"),
    "v2.1": (_version_21, "convert_dataset_v21_to_v30"),
    "nothing there": (_nothing, "no video and no folder of numbered pictures"),
    "no source": (lambda folder: {"source": str(folder / "none")}, "there is no such file or folder"),
    "empty list": (_list("\n"), "the list names no file"),
    "list of absent": (_list("source/none.mp4\n"), "line 1 names source/none.mp4"),
    "listed twice": (_list("source/good.mp4\nsource/good.mp4\n"), "two videos are called 'source/good'"),
    "output there": (_there, "the output exists already"),
    "output inside": (_inside, "the output lies inside the source"),
    "no parent": (lambda f: {**_asked()(f), "output": f / "a/b"}, "there is no such folder"),
    "camera": (_asked(camera="a/b"), "'a/b' is no name of a camera"),
    "odd size": (_asked(size=(47, 64)), "--size 47x64 is odd"),
    "rate": (_asked(fps=float("nan")), "--fps nan is out of range"),
    "only pictures": (lambda f: {"source": str(pictures(f / "source/shots").parent)}, "give it: --fps 30"),
    "caption of none": (_captioned("file,caption\ngod,look\n"), "did you mean 'good'"),
    "caption column": (_captioned("file,caption,from\ngood,look,1\n"), "column 'from' is unknown"),
    "caption empty": (_captioned("file,caption\ngood,\n"), "'caption' is missing or empty"),
    "end before start": (_captioned("file,caption,start,end\ngood,look,0.8,0.2\n"), "is not after the start"),
    "beyond the end": (_captioned("file,caption,start,end\ngood,look,0,9\n"), "good ends at 1.200 s"),
    "no second": (_captioned('[{"file": "good", "caption": "look", "start": "x"}]', "c.json"), "'start' is 'x'"),
    "caption torn": (_captioned('{"file": "good"', "c.jsonl"), "the captions cannot be read"),
    "caption kind": (_captioned("file", "c.tsv"), "captions of the kind '.tsv' are unknown"),
    "rows": (_table("x\n1\n2\n"), "good.csv has 2 rows for 12 frames"),
    "cells": (_table("x\n" + "a\n" * FRAMES), "column 'x' of good.csv holds string"),
    "not finite": (_table("x\n" + "1\n" * 11 + "inf\n"), "no finite number in row 11"),
    "some tables": (_two_tables, "good x; more none"),
}


def test_sources_are_called_by_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/one.mp4", "b/two.MKV", "a.mp4", ".hidden.mp4", "b/notes.txt"):
        (tmp_path / "source" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "source" / name).touch()
    pictures(tmp_path / "source/b/shots", range(2))
    (tmp_path / "files.txt").write_text("# of today\nsource/b/two.MKV\n\nsource/b/shots\n")
    monkeypatch.chdir(tmp_path)

    def names(source: Path | str) -> list[str]:
        return [found.name for found in find_sources(str(source))]

    assert names("source") == names(tmp_path / "source") == ["a", "b/one", "b/shots", "b/two"]
    assert names("source/*/*") == names(tmp_path / "source/*/*") == ["b/one", "b/shots", "b/two"]
    assert names("source/**/*.mp4") == ["a", "b/one"]
    assert names("files.txt") == ["source/b/shots", "source/b/two"]
    assert names("source/b/shots") == ["shots"]
    assert names("source/b/two.MKV") == ["two"]


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_used_is_one_message_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    make, said = BROKEN[kind]
    options = {"source": tmp_path / "source", "output": tmp_path / "dataset"} | make(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError) as error:
        run(options.pop("source"), options.pop("output"), **options)
    assert said in str(error.value)
    assert error.value.where and error.value.fix
    assert content(tmp_path) == before
    assert not list(tmp_path.glob("*.partial"))


def test_damage_in_the_middle_is_found_when_it_is_encoded_and_can_be_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clip(source / "good.mp4")
    clip(source / "worse.mp4", KINDS["10-bit"], range(40))
    sizes = [len(p) for p in packets(source / "worse.mp4")]
    data = (source / "worse.mp4").read_bytes()
    place = data.index(packets(source / "worse.mp4")[len(sizes) // 2])
    (source / "worse.mp4").write_bytes(data[:place] + bytes(60) + data[place + 60 :])
    with pytest.raises(UserError, match="worse: "):
        run(source, tmp_path / "dataset")
    assert run(source, tmp_path / "dataset", skip_bad=True).left_out[0][0] == "worse"
    assert numbers_of(tmp_path / "dataset") == [list(range(FRAMES))]


def test_other_settings_do_not_continue_an_unfinished_import(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "dataset"
    clip(source / "a.mp4")
    assert killed_before_write(12, lambda: run(source, output))
    with pytest.raises(UserError, match="fps: begun with '10', now '5'"):
        run(source, output, fps=5)
    clip(source / "b.mp4")
    with pytest.raises(UserError, match="files: begun with"):
        run(source, output)
    (source / "b.mp4").unlink()
    assert run(source, output).episodes == 1


@pytest.mark.parametrize(
    ("rates", "asked", "fps"),
    [
        (["30", "25", "30"], None, Fraction(30)),
        (["30000/1001"], None, Fraction(30000, 1001)),
        (["30"], 29.97, Fraction(30000, 1001)),
        (["30"], 14.5, Fraction(29, 2)),
        (["25", "30"], None, Fraction(30)),
    ],
)
def test_the_rate_is_that_of_most_files(rates: list[str], asked: float | None, fps: Fraction) -> None:
    clips = [Clip(f"{i}", 30, rate, True, 1.0, SIZE, (0, 0), ()) for i, rate in enumerate(rates)]
    assert make_plan(ImportRequest("x", Path("y"), fps=asked), clips, {}).fps == fps


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    clip(tmp_path / "source/a.mp4")

    sync = os.fsync

    def full(descriptor: int) -> None:
        if "/clips/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HlrpError, match="no space left on the device"):
        run(tmp_path / "source", tmp_path / "dataset")
    monkeypatch.undo()
    assert run(tmp_path / "source", tmp_path / "dataset").episodes == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset", "source"]
