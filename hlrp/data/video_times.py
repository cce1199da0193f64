"""When the frames of a video are shown, from its packets alone; and how that differs from a dataset's table."""

import math
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_PACKETS = 4096
_LOOKED_AT = 1024
_BEFORE_S = 5.0


class StreamTimes(NamedTuple):
    """The frames of a part of a video.

    Args:
        seconds: Times of frames, float64 `[n]`, ascending.
        begin: From here on none is left out.
        end: Up to here none is left out; infinite where the video ended.
    """

    seconds: "NDArray[np.float64]"
    begin: float
    end: float


def stream_times(path: Path, first: float, last: float, stream_number: int | None = None) -> StreamTimes:
    """Times of the frames between two moments, without decoding.

    Args:
        path: A video file.
        first: Second from which on times are wanted.
        last: Second of the last one that is wanted, >= ``first``.
        stream_number: Number of the stream among all of the file; none: the first video.

    Raises:
        OSError: The file cannot be read; also an IndexError or ValueError of PyAV.
    """
    import av
    import numpy as np

    with av.open(str(path.absolute())) as container:
        streams = container.streams
        stream: Any = streams.video[0] if stream_number is None else streams[stream_number]
        tick = float(stream.time_base or 1)
        start = first - _BEFORE_S
        if start > float(stream.start_time or 0) * tick:
            container.seek(round(start / tick), backward=True, any_frame=False, stream=stream)
            begin: float | None = None
        else:
            begin = -np.inf
        shown: list[float] = []
        end, count = np.inf, 0
        for packet in container.demux(stream):
            if packet.pts is None or packet.is_discard:
                continue
            begin = packet.pts * tick if begin is None else begin
            shown.append(packet.pts * tick)
            count += packet.pts * tick >= start  # groups of pictures may be longer than that
            # Packets come in the order of decoding: no frame that is shown before this moment is still to come.
            decoded = (packet.dts if packet.dts is not None else packet.pts) * tick
            if decoded > last or count >= _MOST_PACKETS:
                end = decoded
                break
    return StreamTimes(np.sort(np.asarray(shown, np.float64)), np.inf if begin is None else begin, end)


def without_rounding(stamps: "NDArray[np.floating[Any]]", fps: float) -> "NDArray[np.float64]":
    """Times of a table `[n]`, which are float32, as they were before they were rounded: multiples of 1/fps, float64.

    From 2,048 s on float32 has steps of 0.24 ms, and its rounding is more than the tolerance. Times that lie
    farther from a multiple than it has digits are left as they are.
    """
    import numpy as np

    seconds = stamps.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of what is not finite nothing comes near
        even = np.rint(seconds * fps) / fps
        near = np.abs(even - seconds) <= np.spacing(np.abs(seconds).astype(np.float32))
    return np.where(near, even, seconds)


def keyframe_interval(path: Path) -> int:
    """Most frames from one at which decoding can begin to the next, among the first thousand; without decoding.

    Of a file that cannot be read, whatever is wrong with it: more than there are.
    """
    import av

    longest = since = 0
    try:
        with av.open(str(path.absolute())) as container:
            for packet in islice(container.demux(container.streams.video[0]), _LOOKED_AT):
                if packet.pts is not None:
                    since = 0 if packet.is_keyframe else since + 1
                    longest = max(longest, since)
    except (OSError, ValueError, LookupError, EOFError, av.FFmpegError):
        return _LOOKED_AT
    return longest + 1


class Mismatch(NamedTuple):
    """How expected times differ from those of a video.

    Args:
        frames: Which of the expected times no frame lies near, int64 `[k]`, k >= 1.
        worst: That of them which is farthest from any frame.
        expected: The expected times, float64 `[n]`.
        nearest: For each the nearest frame's time, float64 `[n]`.
        compared: How many of the expected times lie where all frames were found.
        begins: Time of the video's first frame; none: it was not looked at.
        apart: Seconds between neighbouring frames of the video, as a rule.
    """

    frames: "NDArray[np.int64]"
    worst: int
    expected: "NDArray[np.float64]"
    nearest: "NDArray[np.float64]"
    compared: int
    begins: float | None
    apart: float

    @property
    def fix(self) -> str:
        """What to do: a tolerance only where no frame could be taken for its neighbour."""
        off = float(abs(self.expected[self.worst] - self.nearest[self.worst]))
        again = "encode the video again with the times of the table"
        if off < self.apart / 2:
            needed = f"{math.ceil(off * 1e4 + 1) / 1e4:g}"
            return f"{again}, or allow it: --tolerance-s {needed}, in hlrp train data.tolerance_s={needed}"
        return f"{again}, or correct from_timestamp in meta/episodes"

    def __str__(self) -> str:
        first = int(self.frames[0])
        text = f"the tables put a frame at {self.expected[first]:.4f} s, the nearest in the video is at "
        text += f"{self.nearest[first]:.4f} s"
        if len(self.frames) > 1:
            text += (
                f"; so for {len(self.frames)} of {self.compared} frames, the worst expected at "
                f"{self.expected[self.worst]:.4f} s and found at {self.nearest[self.worst]:.4f} s"
            )
        return text + (f"; the video begins at {self.begins:.4f} s" if self.begins else "")


def nearest_index(values: "NDArray[Any]", wanted: "NDArray[Any]", slack: float = 0.0) -> "NDArray[np.int64]":
    """Which of ``values`` `[n]`, ascending, n >= 1, lies nearest to each of ``wanted`` `[k]`.

    Of two that are equally near, to within ``slack``, the earlier one.
    """
    import numpy as np

    after = np.clip(np.searchsorted(values, wanted), 0, len(values) - 1)
    before = np.maximum(after - 1, 0)
    earlier = np.abs(values[before] - wanted) <= np.abs(values[after] - wanted) + slack
    return np.where(earlier, before, after).astype(np.int64)


def find_mismatch(expected: "NDArray[np.float64]", found: StreamTimes, tolerance_s: float) -> Mismatch | None:
    """Compare expected times, `[n]`, with those of a part of a video that has frames, where none of it is left out.

    Returns:
        How they differ; none: they do not.
    """
    import numpy as np

    nearest = found.seconds[nearest_index(found.seconds, expected)]
    known = (expected >= found.begin) & (expected <= found.end)
    distance = np.where(known, np.abs(nearest - expected), 0.0)
    frames = np.flatnonzero(distance >= tolerance_s)
    if not len(frames):
        return None
    apart = float(np.median(np.diff(found.seconds))) if len(found.seconds) > 1 else 0.0
    begins = max(0.0, float(found.seconds[0])) if found.begin == -np.inf else None
    return Mismatch(frames, int(distance.argmax()), expected, nearest, int(known.sum()), begins, apart)
