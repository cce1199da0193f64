"""Frames of a source by number, as they are shown, at the size that is wanted."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data.importing.clip import read_picture
from hlrp.data.importing.sources import Source, numbered, picture_files
from hlrp.data.importing.timeline import BadClipError, Timeline, video_stream
from hlrp.data.video import find_turn, to_rgb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SEEK_MARGIN_S = 1.0


def last_kept[Content](read: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """``read``, with what was read last kept as long as that path stays as it is: a source's parts come in a row."""

    @lru_cache(maxsize=1)
    def kept(path: Path, _size: int, _mtime_ns: int) -> Content:
        return read(path)

    def look_up(path: Path) -> Content:
        found = path.stat()
        return kept(path.absolute(), found.st_size, found.st_mtime_ns)

    return look_up


@last_kept
def _pictures_of(folder: Path) -> list[Path]:
    return [path for _, path in numbered(picture_files(folder))]


def source_frames(
    source: Source, timeline: Timeline | None, picks: "NDArray[np.int64]"
) -> "Iterator[tuple[int, NDArray[np.uint8]]]":
    """The frames that are picked, each once, with its number in the source.

    Args:
        source: Where they come from.
        timeline: Its frames; none: it is a folder of pictures.
        picks: Numbers of frames, int64 `[k]`, ascending.

    Yields:
        Number, and uint8 `[H, W, 3]` as it is shown.

    Raises:
        BadClipError: One of them cannot be decoded.
    """
    import numpy as np

    if timeline is None:
        files = _pictures_of(source.path)
        yield from ((index, read_picture(files[index])) for index in picks.tolist())
        return
    wanted = np.unique(picks).tolist()
    place = 0
    with closing(_decoded(source.path, timeline, wanted[0])) as decoded:
        for index, frame in decoded:
            if index > wanted[place]:
                raise BadClipError(f"frame {wanted[place]} of it cannot be decoded")
            if index == wanted[place]:
                turn = find_turn(frame)
                image = to_rgb(frame)
                yield index, turn.apply(image) if turn is not None else image
                place += 1
                if place == len(wanted):
                    return
    raise BadClipError(f"it ends before frame {wanted[place]}, though it says {len(timeline)}")


def _decoded(path: Path, timeline: Timeline, first: int) -> Generator[tuple[int, Any]]:
    """Decoded frames with their numbers, from ``first`` or earlier on."""
    if timeline.by_order or timeline.encode.startswith("trimmed"):
        yield from _played(path, timeline, first)
        return
    begin = None
    if first:
        begin = max(int(timeline.pts[first]) - round(_SEEK_MARGIN_S / float(timeline.tick)), int(timeline.pts[0]))
    yield from _decode(path, timeline, begin)


def _decode(path: Path, timeline: Timeline, begin: int | None) -> Generator[tuple[int, Any]]:
    """Decoded frames with their numbers, from the start of the file, or from a keyframe before the time ``begin``."""
    import av
    import numpy as np

    with av.open(str(path.absolute())) as container:
        stream = video_stream(container)
        if begin is not None:
            container.seek(begin, backward=True, any_frame=False, stream=stream)
        count = 0
        for frame in container.decode(stream):
            if frame.is_corrupt:
                continue
            if timeline.by_order:
                yield count, frame
                count += 1
            elif frame.pts is not None:
                place = int(np.searchsorted(timeline.pts, frame.pts))
                if place < len(timeline) and timeline.pts[place] == frame.pts:
                    yield place, frame


class _Playback:
    """A file that is decoded from its start on, kept open where a part of it ended: the next one begins there.

    Nothing leads to a frame in the middle of such a file but all those before it, and it may have many parts.
    """

    def __init__(self, path: Path, timeline: Timeline) -> None:
        self.frames = _decode(path, timeline, None)
        self.last: tuple[int, Any] = (-1, None)

    def from_frame(self, first: int) -> Iterator[tuple[int, Any]]:
        """Frames with their numbers from ``first`` on, which may be the last one that was given."""
        if self.last[0] == first:
            yield self.last
        for index, frame in self.frames:
            self.last = (index, frame)
            if index >= first:
                yield self.last


_playing: dict[tuple[Path, int, int], _Playback] = {}
"""At most one: what this process has decoded a part of last, by path, size and time of change."""


def _played(path: Path, timeline: Timeline, first: int) -> Generator[tuple[int, Any]]:
    found = path.stat()
    name = (path.absolute(), found.st_size, found.st_mtime_ns)
    playback = _playing.pop(name, None)
    while _playing:
        _playing.popitem()[1].frames.close()
    if playback is None or playback.last[0] > first:
        playback = _Playback(path, timeline)
    for frame in playback.from_frame(first):
        try:
            yield frame
        except GeneratorExit:  # that was the last one that is wanted
            _playing[name] = playback
            raise


def fit(image: "NDArray[np.uint8]", size: tuple[int, int]) -> Any:
    """A picture, `[H, W, 3]`, of that size: without its last row or column where that is all, else stretched."""
    import av
    import numpy as np

    height, width = image.shape[:2]
    if (height - height % 2, width - width % 2) == size:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(image[: size[0], : size[1]]), format="rgb24")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(width=size[1], height=size[0], interpolation="AREA")
