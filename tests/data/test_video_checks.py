"""What a video really is, against what the dataset says of it: told before a start, and refused by every reader."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_videos import (
    FPS,
    HEIGHT,
    KINDS,
    LENGTHS,
    TOP,
    WIDTH,
    Kind,
    index_dataset,
    number_of,
    picture,
    video_path,
    write_video,
)
from PIL import Image

from hlrp.data import (
    FrameStore,
    FrameWindows,
    WindowSource,
    read_dataset,
    read_episodes,
    sequential_frames,
    video_times,
)
from hlrp.data.dataset_info import INFO
from hlrp.data.images import BadVideoError
from hlrp.data.lerobot_reader import show_one_picture
from hlrp.data.problems import Problem
from hlrp.data.readers import DirectReader
from hlrp.data.video import VideoReader
from hlrp.data.video_checks import video_problems
from hlrp.errors import HlrpError, UserError

FRAMES = sum(LENGTHS)
FIRST_FILE = list(range(LENGTHS[0] + LENGTHS[1]))
SECOND_FILE = list(range(len(FIRST_FILE), FRAMES))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return index_dataset(tmp_path / "data", KINDS["h264"], cameras=(TOP,))


def declare(root: Path, height: int, width: int, camera: str = TOP) -> None:
    info = json.loads((root / INFO).read_text())
    info["features"][camera]["shape"] = [height, width, 3]
    (root / INFO).write_text(json.dumps(info))


def problems(root: Path, episodes: list[int] | None = None, **more: Any) -> list[Problem]:
    return list(video_problems(read_dataset(None, root, **more), [TOP], episodes))


def lerobot_frames(root: Path, tolerance_s: float = 1e-4, indices: Any = range(FRAMES)) -> np.ndarray:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("local/x", root=root, tolerance_s=tolerance_s, video_backend="pyav", return_uint8=True)
    return np.stack([show_one_picture(data)[int(i)][TOP].numpy() for i in indices])


def stored_frames(root: Path, tolerance_s: float) -> np.ndarray:
    store = FrameStore(read_episodes(read_dataset(None, root, tolerance_s=tolerance_s)), TOP, where="ram")
    store.prepare()
    return store.read(np.arange(FRAMES))


READERS: dict[str, Callable[[Path, float], Any]] = {
    "in order": lambda root, s: np.concatenate(
        [c.frames for c in sequential_frames(read_dataset(None, root, tolerance_s=s), TOP)]
    ),
    "by index": lambda root, s: DirectReader(read_episodes(read_dataset(None, root, tolerance_s=s)), TOP).read(
        np.arange(FRAMES)[::-1]
    )[::-1],
    "store": stored_frames,
    "windows": lambda root, s: np.stack(
        [
            np.asarray(item["frames"])[0]
            for item in FrameWindows(
                [WindowSource(read_dataset(None, root, tolerance_s=s), cameras=[TOP])], offset_seconds=0.1
            )
        ]
    ),
    "LeRobot's": lerobot_frames,
}


def test_a_good_dataset_has_no_problem(root: Path) -> None:
    assert problems(root) == []


@pytest.mark.parametrize("kind", ["open GOP", "HEVC", "MPEG-4", "AV1", "turned 90", "turned 180", "BT.2020"])
def test_no_kind_of_video_is_taken_for_a_fault(kind: str, tmp_path: Path) -> None:
    assert problems(index_dataset(tmp_path / "data", KINDS[kind], cameras=(TOP,))) == []


def test_a_size_other_than_declared_is_told_with_both_sizes(root: Path) -> None:
    declare(root, 62, 96)
    found = problems(root, [2])
    assert [p.message for p in found] == [f"{TOP}: frames of 64x96 (height x width), but meta/info.json says 62x96"]
    assert found[0].where == str(video_path(root, TOP, 1)) and found[0].fatal


@pytest.mark.parametrize("reader", READERS)
def test_a_size_other_than_declared_is_squeezed_by_no_reader(root: Path, reader: str) -> None:
    declare(root, 62, 96)
    with pytest.raises(UserError, match=r"frames of 64x96 \(height x width\), but meta/info.json says 62x96"):
        READERS[reader](root, 1e-4)


def test_the_declared_size_is_that_of_the_picture_as_shown(tmp_path: Path) -> None:
    root = index_dataset(tmp_path / "data", KINDS["turned 90"], cameras=(TOP,))
    declare(root, WIDTH, HEIGHT)
    assert [p.message for p in problems(root, [0])] == [
        f"{TOP}: frames of 64x96 (height x width), but meta/info.json says 96x64"
    ]


def test_pictures_of_another_size_than_declared_are_told(tmp_path: Path) -> None:
    root = index_dataset(tmp_path / "data", KINDS["pictures"], cameras=(TOP,))
    assert problems(root) == []
    declare(root, 62, 96)
    assert {p.message for p in problems(root)} == {
        f"{TOP}: frames of 64x96 (height x width), but meta/info.json says 62x96"
    }
    with pytest.raises(UserError, match="frames of 64x96"):
        READERS["by index"](root, 1e-4)


def test_only_files_that_are_needed_need_be_there(root: Path) -> None:
    video_path(root, TOP, 0).unlink()
    assert problems(root, [2, 3]) == []


@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_file_that_cannot_be_decoded_is_named(root: Path, damage: str) -> None:
    path = video_path(root, TOP, 1)
    data = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, len(data), np.uint8).tobytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "noise": noise}[damage])
    (found,) = problems(root)
    assert found.message.startswith(f"{TOP}: the video cannot be decoded: ") and found.where == str(path)


def _times(root: Path, times: Callable[[int], float]) -> None:
    write_video(video_path(root, TOP, 1), SECOND_FILE, Kind(times=times))


def test_a_video_that_does_not_begin_at_zero_is_told(root: Path) -> None:
    _times(root, lambda i: i / FPS + 0.067)
    (found,) = problems(root)
    assert found.message == (
        f"{TOP}: episode 2, frame 0: the tables put a frame at 0.0000 s, the nearest in the video is at 0.0670 s; so "
        "for 21 of 21 frames, the worst expected at 0.0000 s and found at 0.0670 s; the video begins at 0.0670 s"
    )
    # A tolerance would take each frame for its neighbour.
    assert "tolerance" not in found.fix and "from_timestamp" in found.fix


def test_a_variable_rate_is_told_with_the_first_and_the_worst_frame(root: Path) -> None:
    _times(root, lambda i: i / FPS + {5: 0.02, 9: 0.03}.get(i, 0.0))
    (found,) = problems(root)
    assert found.message.startswith(
        f"{TOP}: episode 2, frame 5: the tables put a frame at 0.5000 s, the nearest in the video is at 0.5200 s; so "
        "for 2 of 21 frames, the worst expected at 0.9000 s and found at 0.9300 s"
    )
    assert found.fix.endswith("or allow it: --tolerance-s 0.0302, in hlrp train data.tolerance_s=0.0302")
    assert problems(root, tolerance_s=0.0302) == []
    with pytest.raises(BadVideoError, match=r"expected at 0\.9000 s and found at 0\.9300 s") as caught:
        READERS["in order"](root, 1e-4)
    assert caught.value.episode == 2 and "data.tolerance_s=0.0302" in str(caught.value)


def test_what_is_said_of_one_frame_is_true_however_far_behind_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many packets are looked at, those behind are unknown; and a video does not begin where a look does."""
    monkeypatch.setattr(video_times, "_MOST_PACKETS", 60)
    late = Kind(options={"crf": "8", "g": "90", "bf": "0"}, times=lambda i: i / FPS + 0.02 * (i == 170))
    write_video(tmp_path / "a.mp4", [*range(200)], late, size=(48, 64))
    for first in (0, 165):
        with pytest.raises(BadVideoError) as caught:
            VideoReader(tmp_path / "a.mp4", 0).read(np.arange(first, 200) / FPS, 0)
        assert caught.value.reason == "the tables put a frame at 17.0000 s, the nearest in the video is at 17.0200 s"


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_obeys_the_tolerance(root: Path, reader: str) -> None:
    _times(root, lambda i: i / FPS + 0.03 * (i % 3 == 1))
    with pytest.raises(
        HlrpError, match=r"or allow it: --tolerance-s 0\.030[12], in hlrp train data\.tolerance_s=0\.030[12]"
    ):
        READERS[reader](root, 0.0299)
    frames = READERS[reader](root, 0.0302)
    assert [number_of(f) for f in frames.transpose(0, 2, 3, 1)] == list(range(FRAMES))


def test_another_rate_is_told(root: Path) -> None:
    _times(root, lambda i: i / 12.5)
    (found,) = problems(root)
    assert re.search(r"the video runs at 12\.\d+ fps, meta/info\.json says 10", found.message) and found.fatal


def test_a_video_shorter_than_its_episodes_is_told(root: Path) -> None:
    write_video(video_path(root, TOP, 1), SECOND_FILE[:-2], Kind())
    (found,) = problems(root, [3])
    assert "episode 3, frame 7: the tables put a frame at 1.9000 s, the nearest in the video is at 1.8000 s" in (
        found.message
    )
    assert problems(root, [2]) == []


def test_a_tolerance_of_half_a_frame_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"taken for its neighbour 0\.1 s away"):
        read_dataset(None, root, tolerance_s=0.05)


def test_a_colour_space_that_cannot_be_converted_is_refused(root: Path) -> None:
    write_video(video_path(root, TOP, 0), FIRST_FILE, Kind())
    path = video_path(root, TOP, 1)
    write_video(path, SECOND_FILE, Kind(colorspace=8))
    (found,) = problems(root)
    assert "tagged with colour space 8" in found.message and found.where == str(path)
    with pytest.raises(BadVideoError, match="tagged with colour space 8"):
        READERS["in order"](root, 1e-4)


def test_a_store_is_of_one_tolerance_and_one_way_of_making_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(**more: Any) -> str:
        return FrameStore(read_episodes(read_dataset(None, root, **more)), TOP).key

    keys = {key(), key(tolerance_s=0.01)}
    monkeypatch.setattr("hlrp.data.video._PIXELS", 999)
    keys.add(key())
    assert len(keys) == 3


def test_pictures_are_turned_as_their_exif_says_and_found_in_any_row_order(tmp_path: Path) -> None:
    root = index_dataset(tmp_path / "data", KINDS["pictures"], cameras=(TOP,))
    for path in root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        cells = []
        for index in table["index"].to_pylist():
            image, buffer = Image.fromarray(picture(index)).rotate(180), io.BytesIO()
            exif = image.getexif()
            exif[0x0112] = 3
            image.save(buffer, "PNG", exif=exif)
            cells.append({"bytes": buffer.getvalue(), "path": None})
        column = table.column_names.index(TOP)
        table = table.set_column(column, TOP, pa.array(cells, table.schema.field(TOP).type))
        pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path, row_group_size=5)
    frames = DirectReader(read_episodes(read_dataset(None, root)), TOP).read(np.arange(FRAMES))
    assert [number_of(f) for f in frames.transpose(0, 2, 3, 1)] == list(range(FRAMES))
