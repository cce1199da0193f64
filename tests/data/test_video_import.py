"""Videos of every kind as a dataset: copies are the same, and encoded ones show the right frames."""

import json
import multiprocessing
import shutil
import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from index_videos import KINDS, Kind, number_of, picture, write_video
from PIL import Image
from video_clips import (
    CLOSED,
    FRAMES,
    LATE,
    SIZE,
    VP9,
    captions,
    clip,
    content,
    frames_of,
    numbers_of,
    packets,
    pictures,
    record_of,
    run,
    sound_clip,
)

from hlrp.data.checks import dataset_problems
from hlrp.data.dataset_info import read_dataset
from hlrp.data.episodes import read_episodes
from hlrp.data.importing import ImportProgress, ImportRequest, frames, import_video
from hlrp.data.importing.clip import read_table
from hlrp.data.importing.image_stats import image_stats
from hlrp.data.importing.sources import Source
from hlrp.data.importing.timeline import read_timeline
from hlrp.data.lerobot_reader import show_one_picture
from hlrp.data.readers import DirectReader
from hlrp.data.video import VideoReader
from hlrp.errors import UserError

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
    clip(source / "closed.mp4", CLOSED)
    clip(source / "h264.mp4")
    clip(source / "hevc.mov", KINDS["HEVC"])
    clip(source / "late.mkv", Kind(times=lambda i: LATE + i / 10))
    clip(source / "matroska.mkv", KINDS["B-frames"])
    clip(source / "open.mp4", KINDS["open GOP"])
    sound_clip(source / "sound.mp4")
    clip(source / "vp9.mp4", VP9)
    clip(source / "webm.webm", VP9)
    clip(source / "avi.avi", KINDS["B-frames"])
    clip(source / "mpeg4.mp4", KINDS["MPEG-4"])
    pictures(source / "numbered")
    clip(source / "odd.webm", VP9, size=(49, 65))
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
    clip(source / "a/long.mp4", CLOSED, range(20))
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
    option = captions(tmp_path, "file,caption,start,end\nrefreshed,look,0.5,1\n")
    assert run(source, tmp_path / "dataset", **option).encoded == {"the copy is not the same": 1}
    assert numbers_of(tmp_path / "dataset") == [list(range(5, 10))]


def test_scenes_and_seconds_split(tmp_path: Path) -> None:
    """Three scenes of one picture each; then episodes of at most half a second, which begin at key frames."""
    source = tmp_path / "source"
    write_video(source / "a.mp4", [0] * 8 + [0xFFFF] * 8 + [0] * 8, CLOSED, size=SIZE)
    run(source, tmp_path / "scenes", scene_cuts=True)
    assert [len(e) for e in numbers_of(tmp_path / "scenes")] == [8, 8, 8]
    result = run(source, tmp_path / "new" / "parts", max_seconds=0.5)
    assert [len(e) for e in numbers_of(tmp_path / "new" / "parts")] == [4] * 5 + [4]
    assert result.copied == 6


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_no_scene_holds_a_frame_of_another_at_whatever_rate(ending: str, tmp_path: Path) -> None:
    """A third of the frames of an even video, and of an uneven one; the cuts lie between two that are taken."""
    kind = Kind(times=lambda i: i / 30 + (0.012 * (i % 4 == 2) if ending == "mkv" else 0.0))
    write_video(tmp_path / f"a.{ending}", [0] * 31 + [0xFFFF] * 36 + [0] * 42, kind, size=SIZE)
    run(tmp_path / f"a.{ending}", tmp_path / "scenes", scene_cuts=True, fps=10)
    assert numbers_of(tmp_path / "scenes") == [[0] * 11, [0xFFFF] * 12, [0] * 13]


def test_scenes_of_pictures_split(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "shots", range(1))
    for number in range(1, 24):
        shutil.copy(folder / "frame-0.png", folder / f"frame-{number}.png")
    for number in range(8, 16):
        Image.fromarray(picture(0xFFFF)).resize((64, 48)).save(folder / f"frame-{number}.png")
    run(folder, tmp_path / "scenes", scene_cuts=True, fps=12)
    assert numbers_of(tmp_path / "scenes") == [[0] * 8, [0xFFFF] * 8, [0] * 8]


def test_a_file_that_is_trimmed_at_a_key_frame_is_whole_and_one_that_is_cut_off_is_not(tmp_path: Path) -> None:
    every_12 = Kind(options={"crf": "8", "g": "12", "bf": "0", "sc_threshold": "0"})
    with (
        av.open(str(clip(tmp_path / "plain.mp4", every_12, range(60)))) as plain,
        av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as output,
    ):
        stream = output.add_stream_from_template(plain.streams.video[0])
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
        from_frame_12 = 12 * packet.time_base.denominator // 10
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    place = data.index(b"elst") + 12  # its one edit: how long it is in milliseconds, and where in the track it begins
    data[place : place + 8] = struct.pack(">2i", 4800, from_frame_12)
    (tmp_path / "a.mp4").write_bytes(data)
    assert run(tmp_path / "a.mp4", tmp_path / "dataset").encoded == {"trimmed by its edit list": 1}
    assert numbers_of(tmp_path / "dataset") == [[*range(12, 60)]]
    (tmp_path / "a.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(UserError, match="it is cut off"):
        run(tmp_path / "a.mp4", tmp_path / "cut")


def test_of_several_streams_that_which_a_player_shows_is_taken(tmp_path: Path) -> None:
    """The second one, and the first has other frames at other times."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("libx264", 10, options={"crf": "8", "g": "6", "bf": "0"}) for _ in range(2)]
        for preferred, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt, stream.disposition = 64, 48, "yuv420p", preferred
        for number in range(FRAMES):
            for shown, delay, stream in zip((number + 100, number), (7, 0), streams, strict=True):
                frame = av.VideoFrame.from_ndarray(picture(shown), format="rgb24").reformat(64, 48, "yuv420p")
                frame.pts = number + delay
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    assert run(tmp_path / "a.mkv", tmp_path / "dataset").copied == 1
    assert numbers_of(tmp_path / "dataset") == [[*range(FRAMES)]]


def test_a_file_whose_last_picture_stands_for_long_is_not_cut_off(tmp_path: Path) -> None:
    with (
        av.open(str(clip(tmp_path / "plain.mkv"))) as plain,
        av.open(str(tmp_path / "a.mkv"), "w") as output,
    ):
        stream = output.add_stream_from_template(plain.streams.video[0])
        held = [packet for packet in plain.demux(video=0) if packet.size]
        held[-1].duration = 50 * held[0].duration
        for packet in held:
            packet.stream = stream
            output.mux(packet)
    assert run(tmp_path / "a.mkv", tmp_path / "dataset").copied == 1
    assert numbers_of(tmp_path / "dataset") == [[*range(FRAMES)]]


def _long(folder: Path, kind: str = "mp4") -> Path:
    """A video of two seconds with numbers beside it, which becomes episodes of 0.4 s."""
    clip(folder / f"source/long.{kind}", CLOSED, range(20))
    (folder / "source/long.csv").write_text("x\n" + "".join(f"{i}\n" for i in range(20)))
    return folder / "source"


def test_a_long_video_is_read_once_however_many_parts_it_has(tmp_path: Path) -> None:
    source = _long(tmp_path)
    watched = {reader.__code__: reader.__name__ for reader in (read_timeline, read_table)}
    read: list[str] = []

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in watched and Path(frame.f_locals["path"]).parent.samefile(source):
            read.append(watched[frame.f_code])

    sys.setprofile(watch)
    try:
        assert run(source, tmp_path / "dataset", max_seconds=0.4).episodes == 5
    finally:
        sys.setprofile(None)
    once = ["read_table", "read_timeline"]
    assert sorted(read) == sorted(once * 2), "to look at it, and to write its parts"


def test_a_long_video_without_times_is_decoded_once_however_many_parts_it_has(tmp_path: Path) -> None:
    """Nothing leads into the middle of it."""
    source = _long(tmp_path, "avi")
    decoded: list[int] = []

    def watch(frame: Any, event: str, given: Any) -> None:
        if event == "return" and frame.f_code is frames._decode.__code__ and given is not None:
            decoded.append(given[0])

    sys.setprofile(watch)
    try:
        result = run(source, tmp_path / "dataset", max_seconds=0.4)
    finally:
        sys.setprofile(None)
    assert (result.episodes, result.copied) == (5, 0)
    assert numbers_of(tmp_path / "dataset") == [[*range(i, i + 4)] for i in range(0, 20, 4)]
    assert decoded == [*range(20)]
    timeline = read_timeline(source / "long.avi")

    for picks in ([3, 4, 9], [9, 12], [12], [2, 2, 19], [0], [18, 19]):  # on, from where it ended, back, ...
        found = [*frames.source_frames(Source(source / "long.avi", "long"), timeline, np.array(picks))]
        assert [number for number, _ in found] == sorted({*picks})
        assert [number_of(image) for _, image in found] == sorted({*picks}), "that frame"


def test_parts_of_one_video_are_written_by_several_processes_to_the_same_bytes(tmp_path: Path) -> None:
    source = _long(tmp_path)
    processes: dict[str, int] = {}

    def count(progress: ImportProgress) -> None:
        processes[progress.phase] = max(processes.get(progress.phase, 0), len(multiprocessing.active_children()))

    request = ImportRequest(str(source), tmp_path / "apart" / "d", max_seconds=0.4, workers=3)
    request.output.parent.mkdir()
    import_video(request, count)
    assert processes == {"look": 0, "write": 3, "assemble": 0}
    (tmp_path / "here").mkdir()
    run(source, tmp_path / "here" / "d", max_seconds=0.4)
    assert content(tmp_path / "apart/d") == content(tmp_path / "here/d")
    assert numbers_of(tmp_path / "apart/d") == [[*range(i, i + 4)] for i in range(0, 20, 4)]


def test_statistics_of_features_are_in_the_same_order_in_every_process(imported: tuple[Path, Path]) -> None:
    """LeRobot merges those of several episodes in the order of a set."""
    numbers = ["timestamp", "frame_index", "episode_index", "index", "task_index"]
    found = json.loads((imported[1] / "meta/stats.json").read_text())
    assert [*found] == [*numbers, "observation.images.video"]


def test_an_episode_is_read_beyond_where_its_float32_times_are_rounded_by_the_tolerance(tmp_path: Path) -> None:
    """From 2,048 s on; LeRobot's own reader rounds the times of the file alike."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    numbers = range(1460)
    with av.open(str(tmp_path / "long.mp4"), "w") as container:
        stream = container.add_stream("libx264", Fraction(7, 10), options={"crf": "8", "g": "30", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(64, 48, "yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    root = tmp_path / "dataset"
    run(tmp_path / "long.mp4", root)
    info = read_dataset(None, root)
    assert [p.message for p in dataset_problems(info)] == []
    assert numbers_of(root) == [[*numbers]]
    late = np.asarray(numbers[1434:])
    assert late[0] / 0.7 > 2048
    by_index = DirectReader(read_episodes(info), info.cameras[0]).read(late).transpose(0, 2, 3, 1)
    assert [number_of(image) for image in by_index] == late.tolist()
    dataset = LeRobotDataset("local/dataset", root=root, video_backend="pyav", return_uint8=True)
    for reader in (dataset, show_one_picture(dataset)):
        shown = (reader[int(i)][info.cameras[0]].permute(1, 2, 0).numpy() for i in late)
        assert [number_of(image) for image in shown] == late.tolist()
