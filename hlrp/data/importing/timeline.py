"""When the frames of a file are shown and how its packets lie, from one pass over them; and at which rate they come."""

import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data.video import find_turn, to_rgb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COPIED = ("h264", "hevc", "vp9", "av1")
"""Codecs whose streams are copied: those that LeRobot's decoders read from MP4."""
_PLAIN = ("yuv420p", "yuvj420p")
_NTSC = [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)]
_RATES = [*map(Fraction, (5, 6, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 80, 90, 100, 120, 240)), *_NTSC]
_CONSTANT = 0.25
"""Frames that lie at most this part of a frame beside an even rhythm have a constant rate."""
_SNAP = 0.01
_ROUNDED = 0.0005
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
TICK_S = 1e-6
"""Times are rounded to ticks: of two frames that are as near as that the earlier one is meant."""


class BadClipError(Exception):
    """A file that no episode can be made of.

    Args:
        reason: What is wrong with it.
        fix: What to do about it.
    """

    def __init__(self, reason: str, fix: str = "copy it here again") -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@dataclass(frozen=True, eq=False)
class Timeline:
    """The frames of a file in the order in which they are shown, without any that cannot be.

    Args:
        pts: Times in ticks, int64 `[n]`, ascending.
        tick: Seconds of a tick.
        order: Which frame the packets hold, in the order in which they lie in the file, int64 `[n]`.
        key: Whether decoding can begin at a packet, in the same order, bool `[n]`.
        by_order: The file has no times that can be trusted: frames count one after the other.
        tagged: Rates that the file says of itself.
        size: Height and width as shown.
        encode: Why the stream cannot be copied at all; empty: it can.
        stream: Number of the stream among all of the file.
    """

    pts: "NDArray[np.int64]"
    tick: Fraction
    order: "NDArray[np.int64]"
    key: "NDArray[np.bool_]"
    by_order: bool
    tagged: tuple[Fraction, ...]
    size: tuple[int, int]
    encode: str
    stream: int

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def seconds(self) -> "NDArray[np.float64]":
        """Times from the first frame on, float64 `[n]`."""
        return (self.pts - self.pts[0]) * float(self.tick)

    @property
    def keyframes(self) -> "NDArray[np.int64]":
        """Frames at which a copied part can begin, ascending."""
        import numpy as np

        return np.sort(self.order[self.key])

    def rate(self) -> tuple[Fraction | None, bool]:
        """Frames per second, and whether they come evenly; None: a single frame that says nothing."""
        import numpy as np

        seconds, count = self.seconds, len(self)
        if count == 1:
            return (self.tagged[0] if self.tagged else None), True
        mean = (count - 1) / seconds[-1]
        ticks = float(self.tick)
        steps = np.arange(count)
        close: list[tuple[float, Fraction]] = []
        for rate in (*self.tagged, *_RATES, Fraction(mean).limit_denominator(1001)):
            if rate <= 0:
                continue
            off = float(np.abs(seconds - steps / float(rate)).max())
            if off <= max(0.51 * ticks, 0.01 / float(rate)):
                return rate, True
            close.append((off * float(rate), rate))
        off, rate = min(close)
        if off <= _CONSTANT:
            return rate, True
        typical = 1 / float(np.median(np.diff(seconds)))
        return snap(typical), False


def snap(rate: float) -> Fraction:
    """``rate`` as a fraction: one that cameras and films have, if it is within a hundredth of it."""
    nearest = min(_RATES, key=lambda r: abs(float(r) - rate))
    if abs(float(nearest) / rate - 1) < _SNAP and abs(rate - round(rate)) > 1e-9:
        return nearest
    return Fraction(rate).limit_denominator(1001)


def given_rate(rate: float) -> Fraction:
    """A rate that a person wrote, as a fraction: itself, but 23.976, 23.98, 29.97, ... stand for those of NTSC."""
    ntsc = min(_NTSC, key=lambda r: abs(float(r) - rate))
    near = abs(float(ntsc) / rate - 1) < _ROUNDED
    return ntsc if near else Fraction(rate).limit_denominator(1001)


def video_stream(container: Any) -> Any:
    """The stream of a file that a player would show.

    Raises:
        BadClipError: It has none, or none that can be decoded.
    """
    stream = container.streams.best("video")
    if stream is None:
        raise BadClipError("it holds sound but no video" if container.streams.audio else "it holds no video")
    if stream.codec_context is None:
        raise BadClipError("this FFmpeg has no decoder for its video", "convert it to H.264")
    return stream


def read_timeline(path: Path) -> Timeline:
    """Read the packets of a video once, and decode its first frame.

    Raises:
        BadClipError: It is cut off, or has no frame.
        OSError: It cannot be read; also PyAV's errors.
    """
    import av

    logging.getLogger("libav").setLevel(logging.CRITICAL)
    with av.open(str(path.absolute())) as container:
        stream = video_stream(container)
        first = next((f for f in container.decode(stream) if not f.is_corrupt), None)
        if first is None:
            raise BadClipError("it holds no frame that can be decoded")
        turn = find_turn(first)
        to_rgb(first)
        size = (first.width, first.height) if turn is not None and turn.transpose else (first.height, first.width)
        encode = _why_encode(stream, first, turned=turn is not None)
    with av.open(str(path.absolute())) as container:
        return _read_packets(container, first.pts, size, encode)


def _why_encode(stream: Any, first: Any, *, turned: bool) -> str:
    codec = stream.codec_context.codec.canonical_name
    if codec not in COPIED:
        return f"codec {codec}"
    if first.format.name not in _PLAIN:
        return f"pixels {first.format.name}"
    return "turned" if turned else ""


def _read_packets(container: Any, begins: int | None, size: tuple[int, int], encode: str) -> Timeline:
    import numpy as np

    stream = video_stream(container)
    pts: list[int | None] = []
    key: list[bool] = []
    trimmed = False
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        if packet.is_corrupt:
            raise BadClipError("it is cut off: a packet is incomplete")
        if packet.is_discard:
            trimmed = True
            continue
        pts.append(packet.pts)
        key.append(packet.is_keyframe)
    if not trimmed and stream.frames > len(pts):
        # Of a file that is trimmed at a key frame FFmpeg leaves out what lies before it without a word.
        trimmed = _packets_without_edits(container.name) >= stream.frames
    _refuse_short(container, stream, pts, trimmed=trimmed)
    # AVI keeps no times of showing: FFmpeg makes them up, in the order of decoding.
    by_order = begins is None or "avi" in container.format.name or None in pts or len({*pts}) < len(pts)
    tagged = tuple(Fraction(r) for r in (stream.average_rate, stream.base_rate, stream.guessed_rate) if r)
    if by_order:
        rate = tagged[0] if tagged else Fraction(25)
        count = np.arange(len(pts))
        encode = encode or "no times of showing"
        return Timeline(count, 1 / rate, count, np.asarray(key), True, (rate,), size, encode, stream.index)
    known = np.asarray(pts, np.int64)
    # Frames that lead the first picture need one that is not there.
    shown = known >= (begins or 0)
    known = known[shown]
    order = np.argsort(np.argsort(known))
    return Timeline(
        np.sort(known),
        Fraction(stream.time_base),
        order,
        np.asarray(key)[shown],
        False,
        tagged,
        size,
        encode or ("trimmed by its edit list" if trimmed else ""),
        stream.index,
    )


def _packets_without_edits(path: str) -> int:
    import av

    with av.open(path, options={"ignore_editlist": "1"}) as container:
        return sum(bool(packet.size) for packet in container.demux(video_stream(container)))


def _refuse_short(container: Any, stream: Any, pts: list[int | None], *, trimmed: bool) -> None:
    """Refuse a file that has fewer frames than it says."""
    if not pts:
        raise BadClipError("it has no frames")
    if not trimmed and stream.frames > len(pts):
        raise BadClipError(f"it is cut off: it says {stream.frames} frames and has {len(pts)}")
    said = _seconds_of(stream.metadata.get("DURATION", "")) or 0.0
    if not said and not container.streams.audio and container.duration and stream.frames == 0:
        said = container.duration / 1e6
    last = max((p for p in pts if p is not None), default=None)
    if said and last is not None:
        ends = float(last * stream.time_base)  # Matroska counts from 0, whenever its first frame is shown
        # A last picture that stands for long may not say so itself, but then no byte of the file is missing.
        if ends < said - max(0.5, 3 * said / len(pts)) and not _is_whole_matroska(Path(container.name)):
            raise BadClipError(f"it is cut off: it says {said:.2f} s and ends at {ends:.2f} s")


def _is_whole_matroska(path: Path) -> bool:
    """Whether a file is Matroska or WebM and as long as it says of itself; one that was streamed says nothing."""

    def number(at: int) -> tuple[int, int]:
        length = 9 - head[at].bit_length()  # as many zeros lead as bytes follow
        return int.from_bytes(head[at : at + length]) & ((1 << 7 * length) - 1), at + length

    with path.open("rb") as file:
        head = file.read(4096)
    try:
        header, begins = number(4)
        size, inside = number(begins + header + 4)
    except IndexError:
        return False
    is_segment = head.startswith(_EBML) and head[begins + header :].startswith(_SEGMENT)
    return is_segment and inside + size <= path.stat().st_size


def _seconds_of(clock: str) -> float | None:
    parts = clock.split(":")
    try:
        hours, minutes, seconds = map(float, parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
