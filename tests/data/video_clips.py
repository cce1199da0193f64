"""Clips of many kinds, what an import makes of them, and how to look at it."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from index_videos import KINDS, Kind, number_of, picture, write_video
from numpy.typing import NDArray
from PIL import Image

from hlrp.data.dataset_info import read_dataset
from hlrp.data.decode import sequential_frames
from hlrp.data.importing import ImportRequest, ImportResult, import_video

SIZE = (48, 64)
FRAMES = 12
VP9 = Kind("libvpx-vp9", options={"crf": "8", "b": "0", "g": "5", "cpu-used": "8", "deadline": "realtime"})
CLOSED = Kind(options={"crf": "8", "x264-params": "keyint=4:min-keyint=4:scenecut=0:bframes=2:open-gop=0"})
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


def captions(folder: Path, text: str, name: str = "captions.csv") -> dict[str, Any]:
    """Write a table of captions; the option that names it."""
    (folder / name).write_text(text)
    return {"captions": folder / name}


def damage(path: Path) -> None:
    """Zeros in a frame in the middle."""
    held = packets(path)
    data = path.read_bytes()
    place = data.index(held[len(held) // 2])
    path.write_bytes(data[:place] + bytes(60) + data[place + 60 :])
