"""Videos of every kind as a dataset: copies are the same, and encoded ones show the right frames."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from index_videos import KINDS, Kind, number_of, picture
from video_clips import (
    CLOSED,
    FRAMES,
    LATE,
    SIZE,
    VP9,
    clip,
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
from hlrp.data.importing.image_stats import image_stats
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
