"""Datasets whose pixels carry their index, written without LeRobot, with any codec and any tag.

A picture is 4x4 blocks of one of two colours: the 16 bits of its number. The number of frame i of the dataset is i for
the first camera and i + 4096 for the second.
"""

import io
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

FPS = 10
HEIGHT, WIDTH = 64, 96
LENGTHS = [7, 1, 12, 9]
FILE_OF_EPISODE = [0, 0, 1, 1]
TOP, WRIST = "observation.images.top", "observation.images.wrist"
CAMERAS = (TOP, WRIST)
SECOND_CAMERA = 4096
_COLOURS = np.asarray([(30, 20, 110), (240, 190, 60)], np.uint8)
_MILLISECOND = Fraction(1, 1000)
_X265 = {"x265-params": "log-level=none"}

# The display matrix of an MP4 track, as 16.16 numbers: what a player does to a stored picture.
TURNED = {
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
}


@dataclass(frozen=True)
class Kind:
    """How the videos of a dataset are made.

    Args:
        codec: Encoder; none: pictures in the tables.
        pix_fmt: Of the video.
        options: Of the encoder.
        turn: Key of `TURNED`: what the file asks for so that its pictures are shown upright.
        colorspace: FFmpeg's number of the matrix that is tagged and used; 2: untagged, BT.601.
        full_range: Whether it is tagged and encoded with the full range.
        times: Second of frame i of a file; none: one after the other.
    """

    codec: str | None = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: {"crf": "8", "g": "6", "bf": "0"})
    turn: int | str | None = None
    colorspace: int = 2
    full_range: bool = False
    times: Callable[[int], float] | None = None


KINDS = {
    "h264": Kind(),
    "B-frames": Kind(options={"crf": "8", "g": "8", "bf": "3"}),
    "open GOP": Kind(
        options={"crf": "8", "x264-params": "open-gop=1:keyint=8:min-keyint=1:bframes=3:b-adapt=0:scenecut=0"}
    ),
    "HEVC": Kind("libx265", options={"crf": "8", "x265-params": "log-level=none:keyint=6:bframes=3:open-gop=1"}),
    "10-bit": Kind("libx265", "yuv420p10le", options={"crf": "8", **_X265}),
    "MPEG-4": Kind("mpeg4", options={"qscale": "2", "b": "2000000", "g": "6", "bf": "2"}),
    "AV1": Kind("libsvtav1", options={"crf": "10", "preset": "12", "g": "4"}),
    "BT.709": Kind(colorspace=1),
    "BT.709, full range, 10-bit": Kind(
        "libx265", "yuv420p10le", options={"crf": "8", **_X265}, colorspace=1, full_range=True
    ),
    "BT.2020": Kind("libx265", "yuv420p10le", options={"crf": "8", **_X265}, colorspace=9),
    "AV1, full range": Kind("libsvtav1", options={"crf": "10", "preset": "12"}, full_range=True),
    "pictures": Kind(None),
    **{f"turned {turn}": Kind(turn=turn) for turn in TURNED},
}


def picture(number: int) -> NDArray[np.uint8]:
    """The picture of a number, uint8 `[64, 96, 3]`."""
    bits = (number >> np.arange(16)) & 1
    return _COLOURS[bits.reshape(4, 4)].repeat(HEIGHT // 4, 0).repeat(WIDTH // 4, 1)


def number_of(frame: NDArray[np.uint8]) -> int:
    """The number that a picture `[H, W, 3]` of any size shows."""
    height, width = frame.shape[:2]
    y, x = (np.arange(4) * 2 + 1) * height // 8, (np.arange(4) * 2 + 1) * width // 8
    bits = frame[y[:, None], x[None], 1].reshape(-1) > 105
    return int((bits << np.arange(16)).sum())


def _stored(image: NDArray[np.uint8], turn: int | str | None) -> NDArray[np.uint8]:
    """What has to be stored so that a player shows ``image``."""
    if turn is None:
        return image
    if isinstance(turn, int):
        return np.rot90(image, turn // 90)  # players turn clockwise by the angle
    return image[:, ::-1] if turn == "mirrored" else image[::-1]


def write_video(path: Path, numbers: list[int], kind: Kind, *, size: tuple[int, int] | None = None) -> None:
    """Encode the pictures of ``numbers``, a tenth of a second each; ``size`` squeezes them first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = _stored(picture(numbers[0]), kind.turn)
    height, width = size or first.shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, FPS, options=kind.options)
        stream.width, stream.height, stream.pix_fmt = width, height, kind.pix_fmt
        stream.codec_context.colorspace = kind.colorspace
        stream.codec_context.color_range = 2 if kind.full_range else 0
        if kind.times is not None:
            stream.codec_context.time_base = _MILLISECOND
        for i, number in enumerate(numbers):
            image = np.ascontiguousarray(_stored(picture(number), kind.turn))
            rgb = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = rgb.reformat(
                width=width,
                height=height,
                format=kind.pix_fmt,
                src_colorspace=5,
                dst_colorspace=5 if kind.colorspace == 2 else kind.colorspace,
                dst_color_range=2 if kind.full_range else 1,
                src_color_range=1,
            )
            frame.colorspace, frame.color_range = kind.colorspace, 2 if kind.full_range else 0
            frame.pts = i if kind.times is None else round(1000 * kind.times(i))
            if kind.times is not None:
                frame.time_base = _MILLISECOND
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    # SVT-AV1, run as root, makes the calling thread a realtime one; so would all be that is started from here.
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if kind.turn is not None:
        _ask_for_turn(path, TURNED[kind.turn])


def _ask_for_turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (v << 16 for v in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def index_dataset(root: Path, kind: Kind, *, cameras: tuple[str, ...] = CAMERAS) -> Path:
    """A LeRobotDataset of 29 frames in 4 episodes, one of a single frame, in two tables and two videos a camera."""
    starts = np.cumsum([0, *LENGTHS])
    features = {c: _camera("image" if kind.codec is None else "video") for c in cameras}
    features |= {name: {"dtype": "float32", "shape": [2], "names": None} for name in ("observation.state", "action")}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    for file in (0, 1):
        episodes = [e for e, f in enumerate(FILE_OF_EPISODE) if f == file]
        _write_table(root, file, episodes, starts, cameras if kind.codec is None else ())
        for offset, camera in enumerate(cameras if kind.codec is not None else ()):
            numbers = [i + offset * SECOND_CAMERA for e in episodes for i in range(starts[e], starts[e + 1])]
            write_video(video_path(root, camera, file), numbers, kind)
    _write_meta(root, features, starts, cameras if kind.codec is not None else ())
    return root


def video_path(root: Path, camera: str, file: int) -> Path:
    """Where a video of the dataset lies."""
    return root / f"videos/{camera}/chunk-000/file-{file:03d}.mp4"


def _camera(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}


def _write_table(
    root: Path, file: int, episodes: list[int], starts: NDArray[np.int64], pictures: tuple[str, ...]
) -> None:
    rows = [(e, i) for e in episodes for i in range(LENGTHS[e])]
    index = [int(starts[e]) + i for e, i in rows]
    numbers = pa.list_(pa.float32(), 2)
    columns: dict[str, Any] = {
        name: pa.array([[float(i), 0.5] for i in index], numbers) for name in ("observation.state", "action")
    }
    columns["timestamp"] = pa.array([i / FPS for _, i in rows], pa.float32())
    columns["frame_index"] = pa.array([i for _, i in rows])
    columns["episode_index"] = pa.array([e for e, _ in rows])
    columns["index"] = pa.array(index)
    columns["task_index"] = pa.array([0] * len(rows))
    for offset, camera in enumerate(pictures):
        cells = []
        for i in index:
            buffer = io.BytesIO()
            Image.fromarray(picture(i + offset * SECOND_CAMERA)).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": None})
        columns[camera] = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    path = root / f"data/chunk-000/file-{file:03d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=8)


def _write_meta(root: Path, features: dict[str, Any], starts: NDArray[np.int64], videos: tuple[str, ...]) -> None:
    episodes: list[dict[str, Any]] = []
    for e, length in enumerate(LENGTHS):
        begin = sum(LENGTHS[i] for i in range(e) if FILE_OF_EPISODE[i] == FILE_OF_EPISODE[e]) / FPS
        row: dict[str, Any] = {"episode_index": e, "tasks": ["look"], "length": length}
        row |= {"dataset_from_index": int(starts[e]), "dataset_to_index": int(starts[e + 1])}
        for place in ("data", *(f"videos/{c}" for c in videos)):
            row |= {f"{place}/chunk_index": 0, f"{place}/file_index": FILE_OF_EPISODE[e]}
        for camera in videos:
            row |= {f"videos/{camera}/from_timestamp": begin, f"videos/{camera}/to_timestamp": begin + length / FPS}
        episodes.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    meta = root / "meta"
    (meta / "episodes/chunk-000").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(episodes), meta / "episodes/chunk-000/file-000.parquet")
    pd.DataFrame({"task_index": [0]}, index=pd.Index(["look"], name="task")).to_parquet(meta / "tasks.parquet")
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "features": features,
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "robot_type": None,
        "splits": {"train": f"0:{len(LENGTHS)}"},
    }
    (meta / "info.json").write_text(json.dumps(info))
    ones = {name: [1.0, 1.0] for name in ("max", "mean", "std")} | {"min": [0.0, 0.0], "count": [sum(LENGTHS)]}
    (meta / "stats.json").write_text(json.dumps(dict.fromkeys(("observation.state", "action"), ones)))
