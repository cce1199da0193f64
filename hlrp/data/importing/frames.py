"""Frames of a source by number, as they are shown, at the size that is wanted."""

from collections.abc import Iterator
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
        files = numbered(picture_files(source.path))
        yield from ((index, read_picture(files[index][1])) for index in picks.tolist())
        return
    wanted = np.unique(picks).tolist()
    place = 0
    for index, frame in _decoded(source.path, timeline, wanted[0]):
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


def _decoded(path: Path, timeline: Timeline, first: int) -> Iterator[tuple[int, Any]]:
    """Decoded frames with their numbers, from ``first`` or earlier on."""
    import av
    import numpy as np

    with av.open(str(path.absolute())) as container:
        stream = video_stream(container)
        begin = int(timeline.pts[first])
        if first and not timeline.by_order and not timeline.encode.startswith("trimmed"):
            margin = round(_SEEK_MARGIN_S / float(timeline.tick))
            container.seek(max(begin - margin, int(timeline.pts[0])), backward=True, any_frame=False, stream=stream)
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


def fit(image: "NDArray[np.uint8]", size: tuple[int, int]) -> Any:
    """A picture, `[H, W, 3]`, of that size: without its last row or column where that is all, else stretched."""
    import av
    import numpy as np

    height, width = image.shape[:2]
    if (height - height % 2, width - width % 2) == size:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(image[: size[0], : size[1]]), format="rgb24")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(width=size[1], height=size[0], interpolation="AREA")
