"""The episodes that clips become: at which rate and size, and which part of which clip each of them is."""

import math
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from hlrp.data.importing.captions import Caption
from hlrp.data.importing.clip import Clip, clip_rate
from hlrp.data.importing.request import MIN_SIDE, ImportRequest
from hlrp.data.importing.timeline import TICK_S, given_rate
from hlrp.errors import UserError

_SHORTEST_SCENE_S = 0.5


class Part(NamedTuple):
    """An episode.

    Args:
        clip: Number of its clip.
        begin: First frame, counted at the dataset's rate from the clip's first frame on.
        end: Frame after the last one.
        task: Its sentence.
    """

    clip: int
    begin: int
    end: int
    task: str


class Plan(NamedTuple):
    """What is to be written.

    Args:
        fps: Frames per second.
        size: Height and width, even.
        columns: Of the state; none: there is none.
        parts: The episodes.
    """

    fps: Fraction
    size: tuple[int, int]
    columns: tuple[str, ...]
    parts: list[Part]

    def mark(self, clips: Sequence[Clip]) -> str:
        """A text that changes with the plan."""
        mark = zlib.crc32(repr(self).encode())
        for clip in clips:
            mark = zlib.crc32(repr(clip).encode(), mark)
        return f"{mark:08x}"


def make_plan(request: ImportRequest, clips: Sequence[Clip], captions: Mapping[str, Sequence[Caption]]) -> Plan:
    """Decide rate, size and parts.

    Raises:
        UserError: Clips have different sizes or tables, none says its rate, or a caption lies beyond a clip's end.
    """
    fps = _choose_fps(request, clips)
    size = request.size or _common_size(clips)
    columns = _common_columns(clips)
    parts = [part for number in range(len(clips)) for part in _parts(request, clips, number, fps, captions)]
    return Plan(fps, size, columns, parts)


def frames_at(clip: Clip, fps: Fraction) -> int:
    """Frames of a whole clip at the dataset's rate, at least 1."""
    return max(1, round(clip.length_s * float(fps))) if clip.rate else clip.frames


def _choose_fps(request: ImportRequest, clips: Sequence[Clip]) -> Fraction:
    if request.fps is not None:
        return given_rate(request.fps)
    votes = Counter(rate for clip in clips if clip.constant and (rate := clip_rate(clip)))
    votes = votes or Counter(rate for clip in clips if (rate := clip_rate(clip)))
    if not votes:
        raise UserError("no source says how many frames a second it has", where="--fps", fix="give it: --fps 30")
    most = max(votes.values())
    return max(rate for rate, count in votes.items() if count == most)


def _common_size(clips: Sequence[Clip]) -> tuple[int, int]:
    first = clips[0]
    height, width = (side - side % 2 for side in first.size)
    for clip in clips:
        if tuple(side - side % 2 for side in clip.size) != (height, width):
            one, other = (f"{c.name} is {c.size[0]}x{c.size[1]}" for c in (first, clip))
            raise UserError(
                f"the sources have different sizes: {one}, {other} (height x width)",
                where="--size",
                fix=f"say which all shall have: --size {height}x{width}",
            )
    if min(height, width) < MIN_SIDE:
        raise UserError(
            f"the pictures are {height}x{width}, smaller than {MIN_SIDE}",
            where="--size",
            fix="enlarge them: --size 64x64",
        )
    return height, width


def _common_columns(clips: Sequence[Clip]) -> tuple[str, ...]:
    first = clips[0]
    for clip in clips:
        if clip.columns != first.columns:
            one, other = (f"{c.name} {', '.join(c.columns) or 'none'}" for c in (first, clip))
            raise UserError(
                f"the tables beside the videos have different columns: {one}; {other}",
                where="SOURCE",
                fix="give every video a table with the same columns, or none",
            )
    return first.columns


def _parts(
    request: ImportRequest, clips: Sequence[Clip], number: int, fps: Fraction, captions: Mapping[str, Sequence[Caption]]
) -> Iterator[Part]:
    clip = clips[number]
    length = frames_at(clip, fps)
    default = request.task or clip.name.rpartition("/")[2]
    for caption in captions.get(clip.name) or [Caption(default, 0.0, None, "")]:
        begin = round(caption.start * fps)
        end = length if caption.end is None else round(caption.end * fps)
        if begin >= length or end > length + 1 or end <= begin:
            what = f"from {caption.start:g} s" + (f" to {caption.end:g} s" if caption.end is not None else "")
            raise UserError(
                f"{clip.name} has {length / float(fps):.3f} s, the caption goes {what}, which is no frame of it"
                if begin < length and end <= begin
                else f"{clip.name} ends at {length / float(fps):.3f} s, the caption goes {what}",
                where=caption.where,
                fix="correct the seconds: they count from the first frame of the file",
            )
        for a, b in _split(request, clip, fps, begin, min(end, length)):
            yield Part(number, a, b, caption.text)


def _split(request: ImportRequest, clip: Clip, fps: Fraction, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Parts of one caption: at scenes, then those that are too long."""
    shortest = _SHORTEST_SCENE_S * float(fps)
    cuts = [begin]
    rate = float(fps) if clip.rate else 1.0
    # The first time to which a frame of the new scene is nearest; where both are as near, the earlier one is taken.
    for scene in (math.floor((cut + TICK_S / 2) * rate) + 1 for cut in clip.cuts):
        if scene - cuts[-1] >= shortest and end - scene >= shortest:
            cuts.append(scene)
    keys = [round(second * float(fps)) for second in clip.keyframes]
    most = max(1, int(request.max_seconds * float(fps) + 1e-6)) if request.max_seconds else end
    for a, b in zip(cuts, [*cuts[1:], end], strict=True):
        start = a
        while b - start > most:
            # Where decoding can begin the stream can be copied: better a little short than encoded again.
            last = bisect_right(keys, start + most) - 1
            key = keys[last] if last >= 0 and keys[last] >= start + most / 2 else start + most
            yield start, key
            start = key
        yield start, b
