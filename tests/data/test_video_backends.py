"""torchcodec and PyAV behind one door: one picture, one error, one refusal; and large frames in small pieces."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from index_videos import CAMERAS, KINDS, LENGTHS, TOP, Kind, index_dataset, video_path, write_video
from numpy.typing import NDArray

from hlrp.data import BadVideoError, FrameStore, read_dataset, read_episodes, sequential_frames
from hlrp.data import decode as decoding
from hlrp.data.decode import SequentialDecoder, resize_frames, resized_in_floats
from hlrp.data.open_video import open_video, pixel_source
from hlrp.data.readers import DirectReader
from hlrp.data.video import VideoReader
from hlrp.data.video_backends import require_backend
from hlrp.errors import UserError

MOST_OFF = 1
"""Levels by which a pixel may differ between the two; with FFmpeg 5.1 none did."""


def _why_not() -> str:
    try:
        require_backend("torchcodec")
    except UserError as error:
        return error.what
    return ""


needs_torchcodec = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "torchcodec decodes here")
# Kinds that torchcodec itself shows alike, and others, which are left to PyAV.
ALIKE = ["h264", "open GOP", "HEVC", "MPEG-4", "AV1", "BT.709", "turned 90", "turned 180"]
OTHER = ["10-bit", "BT.709, full range, 10-bit", "AV1, full range", "turned mirrored", "turned upside down"]


def test_what_is_not_installed_is_refused(toy_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(UserError, match="torchcodec cannot decode here: it is not installed") as caught:
        read_dataset(None, toy_root, video_backend="torchcodec")
    assert "--video-backend" in str(caught.value) and "PyAV brings its own" in str(caught.value)
    assert read_dataset(None, toy_root, video_backend="pyav").video_backend == "pyav"


@pytest.mark.skipif(not _why_not(), reason="torchcodec decodes here")
def test_the_refusal_says_what_is_missing(toy_root: Path) -> None:
    with pytest.raises(UserError, match="torchcodec cannot decode here") as caught:
        read_dataset(None, toy_root, video_backend="torchcodec")
    assert "not installed" in str(caught.value) or "shared libraries" in str(caught.value)


@needs_torchcodec
@pytest.mark.parametrize("name", [*ALIKE, *OTHER])
def test_one_picture(name: str, tmp_path: Path) -> None:
    root = index_dataset(tmp_path, KINDS[name], cameras=(TOP,))
    plain, other = (read_dataset(None, root, video_backend=b) for b in ("pyav", "torchcodec"))  # type: ignore[arg-type]
    file = video_path(root, TOP, 0)
    video = open_video(file, 0, backend="torchcodec", tolerance_s=1e-4)
    assert isinstance(video, VideoReader) == (name in OTHER)
    wanted = _frames(plain)
    tables = [read_episodes(info) for info in (plain, other)]
    index = np.random.default_rng(0).permutation(sum(LENGTHS))
    tensors = [c.frames for c in SequentialDecoder(tables[1], TOP).frames_on("cpu", range(len(LENGTHS)), chunk=5)]
    ways = {
        "in order": _frames(other),
        "as tensors": torch.cat(tensors).permute(0, 3, 1, 2).numpy(),
        "at random": DirectReader(tables[1], TOP).read(index)[np.argsort(index)],
    }
    for way, frames in ways.items():
        assert np.abs(frames.astype(int) - wanted).max() <= MOST_OFF, way
    stores = [FrameStore(table, TOP, root=tmp_path) for table in tables]
    assert stores[0].key != stores[1].key
    assert ", cuda; " in pixel_source("torchcodec", "cuda") and ", cpu; " in pixel_source("torchcodec")


@needs_torchcodec
@pytest.mark.parametrize("name", ["h264", "turned mirrored"])
def test_lerobots_own_dataset_shows_it_too(name: str, tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from hlrp.data.lerobot_reader import show_one_picture

    root = index_dataset(tmp_path, KINDS[name], cameras=(TOP,))
    data = LeRobotDataset("local/index", root=root, video_backend="torchcodec", return_uint8=True)
    shown = show_one_picture(data, "torchcodec")
    wanted = _frames(read_dataset(None, root))
    for index in (0, 7, 19):
        assert np.abs(shown[index][TOP].numpy().astype(int) - wanted[index]).max() <= MOST_OFF


@needs_torchcodec
@pytest.mark.parametrize("size", [(46, 70), (37, 53)])
def test_one_picture_of_sizes_that_are_no_round_numbers(size: tuple[int, int], tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", list(range(12)), KINDS["AV1"], size=size)
    seconds = np.arange(12) / 10
    shown = [
        open_video(tmp_path / "v.mp4", 0, backend=b, tolerance_s=1e-4, threads=1).read(seconds, 0)  # type: ignore[arg-type]
        for b in ("pyav", "torchcodec")
    ]
    assert np.abs(shown[0].astype(int) - shown[1]).max() <= MOST_OFF


@needs_torchcodec
def test_a_broken_file_is_the_same_error(tmp_path: Path) -> None:
    root = index_dataset(tmp_path, Kind(options={"crf": "8", "g": "6", "bf": "0"}), cameras=(TOP,))
    path = video_path(root, TOP, 1)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    size = int.from_bytes(data[begin - 8 : begin - 4], "big") - 8
    data[begin + size // 3 : begin + size // 2] = bytes(size // 2 - size // 3)
    path.write_bytes(data)
    said, left = [], []
    for backend in ("pyav", "torchcodec"):
        bad: list[BadVideoError] = []
        info = read_dataset(None, root, video_backend=backend)  # type: ignore[arg-type]
        left.append([(c.episode, c.start) for c in sequential_frames(info, TOP, on_bad=bad.append)])
        said.append([str(error) for error in bad])
    assert said[0] == said[1] != [] and left[0] == left[1] != []


@needs_torchcodec
def test_a_frame_that_is_not_where_the_table_says_is_the_same_error(tmp_path: Path) -> None:
    shifted = Kind(times=lambda i: i / 10 + (0.02 if i == 5 else 0))
    root = index_dataset(tmp_path, shifted, cameras=(TOP,))
    said = []
    for backend in ("pyav", "torchcodec"):
        with pytest.raises(BadVideoError) as caught:
            _frames(read_dataset(None, root, video_backend=backend))  # type: ignore[arg-type]
        said.append(str(caught.value))
        wide = read_dataset(None, root, tolerance_s=0.03, video_backend=backend)  # type: ignore[arg-type]
        assert len(_frames(wide)) == sum(LENGTHS)
    assert said[0] == said[1]


def test_large_frames_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = index_dataset(tmp_path, KINDS["h264"])
    info = read_dataset(None, root)
    for camera in CAMERAS:
        whole = np.concatenate([c.frames for c in sequential_frames(info, camera, size=40)])
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "_PIECE_BYTES", 3 * 64 * 96 * 3)
            chunks = list(sequential_frames(info, camera, size=40))
        assert [c.start for c in chunks] == [s for n in LENGTHS for s in range(0, n, 3)]
        assert np.array_equal(np.concatenate([c.frames for c in chunks]), whole)


def test_resizing_in_floats_is_within_a_level() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 48, 64), np.uint8)
    for size in ((24, 24), (96, 80), (7, 11)):
        other = resized_in_floats(torch.from_numpy(frames), size).numpy()
        assert other.dtype == np.uint8
        assert np.abs(other.astype(int) - resize_frames(frames, size)).max() <= 1


def _frames(info: Any) -> NDArray[np.uint8]:
    return np.concatenate([chunk.frames for chunk in sequential_frames(info, TOP, chunk=5)])
