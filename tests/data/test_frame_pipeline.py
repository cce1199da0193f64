"""Decoding ahead: threads share long episodes, and give what one of them gives."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from make_dataset import make_dataset

from hlrp import ranks
from hlrp.data import BadVideoError, frame_pipeline, read_dataset, read_episodes, sequential_frames
from hlrp.data.decode import FrameChunk, SequentialDecoder, Span
from hlrp.data.frame_pipeline import FramePipeline
from hlrp.data.video_times import keyframe_interval

CAMERA, CPU = "observation.image", torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of 50 frames at 10 fps in one video with a keyframe at every second frame."""
    return make_dataset(tmp_path_factory.mktemp("data") / "long", episodes=2, length=50, size=32, tasks=("a",))


class Stub:
    """Long episodes; each thread waits for others before its first frame.

    Args:
        at_once: Threads that must be at work for any of them to go on.
        interval: Frames from keyframe to keyframe.
        lengths: Frames of each episode.
    """

    size, is_video = (32, 32), True

    def __init__(self, at_once: int, interval: int, lengths: list[int]) -> None:
        self.table = SimpleNamespace(lengths=np.array(lengths), info=SimpleNamespace(video_backend="pyav"))
        self._interval, self._all_here = interval, threading.Barrier(at_once)

    def keyframe_interval(self, episode: int) -> int:
        return self._interval

    def frames(self, parts: Iterable[Span], *, chunk: int, **_: Any) -> Iterator[FrameChunk]:
        for number, (episode, first, stop) in enumerate(parts):
            if number == 0:
                self._all_here.wait(timeout=20)
            for start in range(first, stop, chunk):
                yield FrameChunk(episode, start, np.zeros((min(chunk, stop - start), 3, 32, 32), np.uint8))


@pytest.mark.parametrize("lengths", [[2048], [600, 600], [100] * 24])
def test_all_threads_are_at_work(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """However the frames are shared out among episodes: four threads decode at once, or the barrier breaks."""
    monkeypatch.setattr(ranks, "cores", lambda: 4)
    decoder: Any = Stub(4, 30, lengths)
    pipeline = FramePipeline(decoder, range(len(lengths)), CPU)
    assert (pipeline.workers, pipeline.decoder_threads) == (4, 1)
    found = [(item.episode, item.start + i) for item in pipeline for i in range(len(item.frames))]
    assert found == [(episode, i) for episode, length in enumerate(lengths) for i in range(length)]


def test_the_decoder_has_threads_where_keyframes_are_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "cores", lambda: 16)
    # Of the second episode, as much as may wait is decoded beside the first one, which is 1.5 and 10 times that.
    monkeypatch.setattr(frame_pipeline, "_AHEAD_BYTES", 1000 * 32 * 32 * 3)
    for length, expected in ((1440, (3, 5)), (9600, (2, 8))):
        decoder: Any = Stub(1, 250, [length] * 20)
        pipeline = FramePipeline(decoder, range(20), CPU)
        assert (pipeline.workers, pipeline.decoder_threads) == expected, length


@pytest.mark.parametrize("workers", [1, 3])
def test_parts_of_an_episode_are_its_frames(root: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_pipeline, "_JOB_FRAMES", 16)
    info = read_dataset(None, root)
    parts: list[Span] = []
    frames = SequentialDecoder.frames

    def note(self: SequentialDecoder, asked: Iterable[Span], **options: Any) -> Iterator[FrameChunk]:
        return frames(self, (parts.append(part) or part for part in asked), **options)  # type: ignore[func-returns-value]

    monkeypatch.setattr(SequentialDecoder, "frames", note)
    decoder = SequentialDecoder(read_episodes(info), CAMERA)
    found = list(FramePipeline(decoder, [0, 1], CPU, chunk=4, workers=workers))
    assert sorted(parts) == [Span(e, *bounds) for e in (0, 1) for bounds in ((0, 16), (16, 32), (32, 48), (48, 50))]
    assert [item.start for item in found] == [*range(0, 50, 4)] * 2
    expected = np.concatenate([chunk.frames for chunk in sequential_frames(info, CAMERA)])
    np.testing.assert_array_equal(torch.cat([item.frames for item in found]).permute(0, 3, 1, 2).numpy(), expected)


def test_of_a_broken_episode_no_later_part_is_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_pipeline, "_JOB_FRAMES", 16)
    decoder = SequentialDecoder(read_episodes(read_dataset(None, root)), CAMERA)
    read = SequentialDecoder._video_chunks

    def torn(self: Any, *args: Any) -> Iterator[Any]:
        for item in read(self, *args):
            yield BadVideoError.of(root, 0, "torn") if item[0] == 0 and item[1] >= 20 else item

    monkeypatch.setattr(SequentialDecoder, "_video_chunks", torn)
    found = list(FramePipeline(decoder, [0, 1], CPU, chunk=4, workers=2, skip_bad=True))
    bad = [i for i, item in enumerate(found) if isinstance(item, BadVideoError)]
    assert len(bad) == 1
    assert [item.start for item in found[: bad[0]] if not isinstance(item, BadVideoError)] == [0, 4, 8, 12, 16]
    assert {item.episode for item in found[bad[0] + 1 :]} == {1}
    with pytest.raises(BadVideoError, match="torn"):
        list(FramePipeline(decoder, [0, 1], CPU, chunk=4, workers=2))


def test_keyframes_are_counted(root: Path, tmp_path: Path) -> None:
    import av

    assert keyframe_interval(next(root.rglob("*.mp4"))) == 2
    path = tmp_path / "rare.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 10, options={"g": "30", "keyint_min": "30", "sc_threshold": "0"})
        stream.width = stream.height = 32
        for i in range(70):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert keyframe_interval(path) == 30
    path.write_bytes(b"no video")
    assert keyframe_interval(path) > 1000
    assert keyframe_interval(tmp_path / "gone.mp4") > 1000
