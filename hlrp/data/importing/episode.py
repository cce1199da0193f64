"""One episode's video: the packets of its file where that is right, else its frames encoded once."""

import errno
import json
import os
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hlrp.data.importing.clip import Fault, read_ends, read_table
from hlrp.data.importing.frames import fit, last_kept, source_frames
from hlrp.data.importing.image_stats import image_stats
from hlrp.data.importing.sources import Source
from hlrp.data.importing.timeline import TICK_S, BadClipError, Timeline, read_timeline, video_stream
from hlrp.data.video import DECODING_FAULTS
from hlrp.data.video_times import nearest_index
from hlrp.files import new_file, write_json
from hlrp.outputs import FULL_DISK

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_timeline_of, _table_of = last_kept(read_timeline), last_kept(read_table)


class Encoder(NamedTuple):
    """How frames are encoded.

    Args:
        codec: FFmpeg's name of the encoder.
        pix_fmt: Of the video.
        options: Of the encoder.
    """

    codec: str
    pix_fmt: str
    options: dict[str, str]


class Job(NamedTuple):
    """An episode to write.

    Args:
        number: Its number in the plan.
        source: Where its frames come from.
        begin: First frame at the dataset's rate, from the source's first frame on.
        end: Frame after the last one.
        ends: Checksums of the first and last frame of the whole source.
        fps: Frames per second.
        size: Height and width.
        encoder: Used where the stream cannot be copied.
        states: Whether the source has a table of states.
        folder: Where it is written: `<number>.mp4`, `<number>.npy` (states), and last of all `<number>.json`.
    """

    number: int
    source: Source
    begin: int
    end: int
    ends: tuple[int, int]
    fps: Fraction
    size: tuple[int, int]
    encoder: Encoder
    states: bool
    folder: Path

    def file(self, ending: str) -> Path:
        """A file of this episode."""
        return self.folder / f"{self.number:06d}{ending}"


@dataclass(frozen=True)
class Written:
    """An episode that is written.

    Args:
        number: Its number in the plan.
        frames: How many frames it has.
        first: Which frame of the source it begins with.
        encoded: Why its stream is not that of the source; empty: it is.
        stats: Statistics of its pictures in [0, 1] by LeRobot's names, a number a channel; `count` frames.
    """

    number: int
    frames: int
    first: int
    encoded: str
    stats: dict[str, list[float]]


def read_written(path: Path) -> Written:
    """What `<number>.json` says."""
    return Written(**json.loads(path.read_text(encoding="utf8")))


def write_episode(job: Job) -> Written | Fault:
    """Write an episode whole or not at all."""
    import av
    import numpy as np

    try:
        picks, timeline = _pick(job)
        encoded = _write_video(job, timeline, picks)
        if job.states:
            table = job.source.table
            assert table is not None
            with new_file(job.file(".npy")) as temporary, temporary.open("wb") as file:
                np.save(file, _table_of(table)[picks])
        stats = image_stats(job.file(".mp4"))
    except BadClipError as error:
        return Fault(job.source.name, str(job.source.path), error.reason, error.fix)
    except (ValueError, LookupError, EOFError, av.FFmpegError) as error:
        if getattr(error, "errno", None) in FULL_DISK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(job.folder)) from error
        reason = f"it cannot be decoded: {type(error).__name__}: {error}"
        return Fault(job.source.name, str(job.source.path), reason, "copy it here again")
    written = Written(job.number, len(picks), int(picks[0]), encoded, stats)
    write_json(job.file(".json"), written.__dict__)
    return written


def _pick(job: Job) -> "tuple[NDArray[np.int64], Timeline | None]":
    """Which frame of the source each frame of the episode is."""
    import numpy as np

    grid = np.arange(job.begin, job.end)
    if job.source.is_pictures:
        return grid, None
    timeline = _timeline_of(job.source.path)
    return nearest_index(timeline.seconds, grid / float(job.fps), TICK_S), timeline


def _write_video(job: Job, timeline: Timeline | None, picks: "NDArray[np.int64]") -> str:
    """Write the video; why it was encoded, or nothing."""
    with new_file(job.file(".mp4")) as temporary:
        if timeline is None:
            why = "pictures"
        else:
            why = _why_not_copy(job, timeline, picks)
            why = why or _copy(job, timeline, picks, temporary)
        if why:
            _encode(job, timeline, picks, temporary)
    return why


def _why_not_copy(job: Job, timeline: Timeline, picks: "NDArray[np.int64]") -> str:
    import numpy as np

    if timeline.encode:
        return timeline.encode
    if timeline.size != job.size:
        return f"size {timeline.size[0]}x{timeline.size[1]}"
    if not np.array_equal(picks, np.arange(picks[0], picks[0] + len(picks))):
        return "of another rate or uneven times"
    chosen = (timeline.order >= picks[0]) & (timeline.order <= picks[-1])
    places = np.flatnonzero(chosen)
    if not timeline.key[places[0]] or timeline.order[places[0]] != picks[0]:
        return "begins between key frames"
    # Frames before the first one that come later in the file lead it, and nothing else needs them.
    if (timeline.order[places[0] : places[-1]] > picks[-1]).any():
        return "ends inside a group of pictures"
    return ""


def _copy(job: Job, timeline: Timeline, picks: "NDArray[np.int64]", target: Path) -> str:
    """Copy packets with new times; why the result is not right, or nothing."""
    import av
    import numpy as np

    first, count = int(picks[0]), len(picks)
    chosen = timeline.order[(timeline.order >= first) & (timeline.order < first + count)] - first
    delay = max(0, int((np.arange(count) - chosen).max()))
    tick, step = Fraction(1, job.fps.numerator), job.fps.denominator
    with av.open(str(job.source.path.absolute())) as source, av.open(str(target), "w", format="mp4") as output:
        stream = video_stream(source)
        # Opaque: PyAV otherwise looks for an encoder by the name of the decoder, which AV1 has none of.
        copied = output.add_stream_from_template(stream, opaque=True)
        copied.metadata.clear()
        copied.time_base = tick
        low, high = timeline.pts[first], timeline.pts[first + count - 1]
        if first:
            source.seek(int(low), backward=True, any_frame=False, stream=stream)
        place = 0
        for packet in source.demux(stream):
            if packet.size == 0 or packet.pts is None or not low <= packet.pts <= high:
                continue
            # Not by counting: a seek may end further back.
            shown = int(np.searchsorted(timeline.pts, packet.pts)) - first
            packet.time_base = tick
            packet.pts, packet.dts, packet.duration = shown * step, (place - delay) * step, step
            packet.stream = copied
            output.mux(packet)
            place += 1
            if place == count:
                break
    return "" if place == count and _is_right(job, timeline, first, count, target) else "the copy is not the same"


def _is_right(job: Job, timeline: Timeline, first: int, count: int, target: Path) -> bool:
    """Whether the first and the last frame of a copy are those of the source, and all times are even."""
    import av
    import numpy as np

    try:
        copy = read_timeline(target)
        if len(copy) != count or not np.allclose(
            copy.pts * float(copy.tick), np.arange(count) / float(job.fps), atol=1e-6
        ):
            return False
        ends = read_ends(target, copy)
    except (BadClipError, *DECODING_FAULTS, av.FFmpegError):
        return False
    if (first, count) == (0, len(timeline)):
        return (zlib.crc32(ends[0].tobytes()), zlib.crc32(ends[1].tobytes())) == job.ends
    return np.array_equal(ends, read_ends(job.source.path, timeline, first, first + count - 1))


def _encode(job: Job, timeline: Timeline | None, picks: "NDArray[np.int64]", target: Path) -> None:
    import av

    height, width = job.size
    # Its library prints what it is to the terminal otherwise.
    os.environ.setdefault("SVT_LOG", "1")
    try:
        with av.open(str(target), "w", format="mp4") as output:
            stream = output.add_stream(job.encoder.codec, job.fps, options=dict(job.encoder.options))
            stream.width, stream.height, stream.pix_fmt = width, height, job.encoder.pix_fmt
            place = 0
            for index, image in source_frames(job.source, timeline, picks):
                frame = fit(image, job.size).reformat(width=width, height=height, format=job.encoder.pix_fmt)
                while place < len(picks) and picks[place] == index:
                    frame.pts = place
                    output.mux(stream.encode(frame))
                    place += 1
            output.mux(stream.encode(None))
    finally:
        # SVT-AV1, run as root, makes the calling thread a realtime one, which leaves others no time.
        if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if place != len(picks):
        raise BadClipError(f"frame {int(picks[place])} of it cannot be decoded")
