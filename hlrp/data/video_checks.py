"""Whether a dataset's videos are what its metadata says, from their first frame and their packets' times."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hlrp.data.dataset_info import INFO, DatasetInfo
from hlrp.data.decode import FrameTimes, frame_size
from hlrp.data.episodes import Episodes, read_episodes
from hlrp.data.images import BadVideoError, EmbeddedImages, require_size
from hlrp.data.problems import Problem
from hlrp.data.video import DECODING_FAULTS, find_turn, to_rgb
from hlrp.data.video_times import find_mismatch, stream_times
from hlrp.errors import UserError

_HEAD_S = 20.0
_SAME_RATE = 0.01


def video_problems(info: DatasetInfo, cameras: Sequence[str], episodes: Sequence[int] | None) -> Iterator[Problem]:
    """Look at each video that some episodes need, once: its first frame, and the times of what it begins and ends with.

    Args:
        info: The dataset.
        cameras: Image and video features to look at.
        episodes: Episodes that will be read, whose files are all there; none: all.

    Yields:
        Files that cannot be decoded, frames of another size than declared, times that are not those of
        the tables. As a warning: another rate in the file, though the times are right.

    Raises:
        UserError: The episode table cannot be read.
    """
    table = read_episodes(info)
    chosen = sorted(set(episodes)) if episodes is not None else list(range(info.episodes))
    for camera in cameras:
        if info.features[camera]["dtype"] == "image":
            yield from _picture_problems(table, camera, chosen)
            continue
        by_file: dict[Path, list[int]] = {}
        for episode in chosen:
            by_file.setdefault(table.video[camera][0][episode], []).append(episode)
        try:
            times = FrameTimes(table, camera)
        except UserError:
            times = None  # tables that cannot be read are not the videos' fault, and are told by `table_problems`
        for path, inside in by_file.items():
            yield from _file_problems(_Video(table, camera, path, inside), times)


class _Video(NamedTuple):
    """One file, and the episodes that need it."""

    table: Episodes
    camera: str
    path: Path
    episodes: list[int]

    def problem(self, message: str, fix: str, *, fatal: bool = True) -> Problem:
        return Problem(f"{self.camera}: {message}", str(self.path), fix, fatal)


class _Look(NamedTuple):
    """What opening a file shows: the size of its frames as shown, and the rate that it is tagged with."""

    size: tuple[int, int]
    fps: float | None


def _file_problems(video: _Video, times: FrameTimes | None) -> Iterator[Problem]:
    import av

    info = video.table.info
    depth = info.features[video.camera].get("info") or {}
    try:
        look = _look(video.path, colour=not (depth.get("is_depth_map") or depth.get("video.is_depth_map")))
        problem = _time_problem(video, times, look) if times is not None else None
    except (*DECODING_FAULTS, av.FFmpegError) as error:
        reason = f"{type(error).__name__}: {error}"
        yield video.problem(f"the video cannot be decoded: {reason}", "copy the file again, or encode it again")
        return
    try:
        require_size(look.size, frame_size(info, video.camera), video.path)
    except UserError as error:
        yield video.problem(error.what, error.fix or "")
    if problem is not None:
        yield problem


def _look(path: Path, *, colour: bool) -> _Look:
    import av

    with av.open(str(path.absolute())) as container:
        if not container.streams.video:
            raise ValueError("the file holds no video")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("this FFmpeg has no decoder for it")
        frame = next(container.decode(stream), None)
        if frame is None:
            raise ValueError("the file holds no frame that can be decoded")
        turn = find_turn(frame)
        if colour:
            to_rgb(frame)
        size = (frame.width, frame.height) if turn is not None and turn.transpose else (frame.height, frame.width)
        return _Look(size, float(stream.average_rate) if stream.average_rate and stream.frames != 1 else None)


def _time_problem(video: _Video, times: FrameTimes, look: _Look) -> Problem | None:
    """The times of the first seconds and of the last frame, against those of the tables."""
    import numpy as np

    parts = [times.seconds(episode) for episode in video.episodes]
    expected = np.concatenate(parts)
    lengths = [len(part) for part in parts]
    labels = np.stack([np.repeat(video.episodes, lengths), np.concatenate([np.arange(n) for n in lengths])], axis=1)
    known = np.isfinite(expected)
    order = np.argsort(expected[known], kind="stable")
    expected, labels = expected[known][order], labels[known][order]
    if not len(expected):
        return None
    declared = video.table.info.fps
    differs = look.fps is not None and abs(look.fps / declared - 1) > _SAME_RATE
    rates = f"the video runs at {look.fps:g} fps, {INFO} says {declared:g}" if differs else ""
    first, last = float(expected[0]), float(expected[-1])
    for begin, end in ((first, min(first + _HEAD_S, last)), (last, last)):
        found = stream_times(video.path, begin, end)
        inside = (expected >= begin) & (expected <= end)
        if not len(found.seconds):
            mismatch, at, what = None, -1, f"the video ends before {begin:.4f} s"
        else:
            mismatch = find_mismatch(expected[inside], found, video.table.info.tolerance_s)
            if mismatch is None:
                continue
            at, what = int(np.flatnonzero(inside)[mismatch.frames[0]]), str(mismatch)
        episode, frame = labels[at]
        what = f"episode {episode}, frame {frame}: {what}" + (f"; {rates}" if rates else "")
        return video.problem(what, mismatch.fix if mismatch is not None else "copy the file again, or encode it again")
    if rates:
        return video.problem(f"{rates}, though its times are those of the tables", f"correct {INFO}", fatal=False)
    return None


def _picture_problems(table: Episodes, camera: str, chosen: list[int]) -> Iterator[Problem]:
    """The first picture of the first and of the last episode."""
    images = EmbeddedImages(table, camera)
    for episode in sorted({chosen[0], chosen[-1]}):
        try:
            images.read_frames(table.start[episode : episode + 1], episode)
        except UserError as error:
            yield Problem(f"{camera}: {error.what}", error.where or "", error.fix or "")
        except BadVideoError as error:
            fix = "restore the tables, or choose other episodes (data.episodes)"
            yield Problem(f"the pictures of episode {episode} cannot be read: {error.reason}", str(error.path), fix)
