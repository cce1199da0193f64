"""One video file: its frames by time, with the pixels that a player shows.

Turned and mirrored as the file's display matrix says, and converted to RGB by the matrix and range that the file is
tagged with (BT.601, BT.709, BT.2020, ...). What is not tagged is taken as FFmpeg takes it: BT.601, limited range.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.data.images import BadVideoError, require_size
from hlrp.data.video_times import find_mismatch, stream_times

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

DECODING_FAULTS = (OSError, ValueError, LookupError, EOFError)
"""What PyAV raises for a file that cannot be read, beside its own `FFmpegError`."""
_PIXELS = 2
"""Raised whenever the same file would give other pixels."""
_SEEK_BEYOND_S = 2.0
_FIRST_STEP_BACK_S = 0.5
_FARTHEST_BACK_S = 64.0
_SAME_S = 1e-4

# FFmpeg's AVColorSpace: RGB, untagged, reserved, BT.470BG, SMPTE 170M: what its converter does when told nothing.
_AS_BT601 = frozenset((0, 2, 3, 5, 6))
_OTHER_MATRICES = frozenset((1, 4, 7, 9))
_BT601, _LIMITED, _FULL = 5, 1, 2


def pyav_source() -> str:
    """What decides the pixels that PyAV gives, besides the files."""
    import av

    libraries = av.library_versions
    versions = [".".join(map(str, libraries[name])) for name in ("libavcodec", "libswscale")]
    return f"pixels {_PIXELS}, PyAV {av.__version__}, libavcodec {versions[0]}, libswscale {versions[1]}"


class Turn(NamedTuple):
    """How a picture is turned for showing: first transposed, then mirrored.

    Args:
        transpose: Whether rows become columns.
        flip_rows: Whether it is then turned upside down.
        flip_columns: Whether left and right are then swapped.
    """

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def apply(self, image: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
        """A view of ``image``, uint8 `[H, W, 3]`, as it is shown."""
        image = image.transpose(1, 0, 2) if self.transpose else image
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def find_turn(frame: Any) -> Turn | None:
    """What the display matrix of a decoded frame asks for; None: nothing.

    Raises:
        ValueError: An angle that is no multiple of 90 degrees.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    import numpy as np

    matrix = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    signs = np.rint(matrix / np.abs(matrix).max()).astype(int) if matrix.any() else np.eye(2, dtype=int)
    straight, turned = abs(np.diag(signs)).sum(), abs(np.diag(signs[::-1])).sum()
    if (straight, turned) == (2, 0):
        turn = Turn(False, bool(signs[1, 1] < 0), bool(signs[0, 0] < 0))
    elif (straight, turned) == (0, 2):
        turn = Turn(True, bool(signs[0, 1] < 0), bool(signs[1, 0] < 0))
    else:
        raise ValueError(f"the video asks to be turned by {-frame.rotation} degrees, which is no multiple of 90")
    return turn if any(turn) else None


def to_rgb(frame: Any) -> "NDArray[np.uint8]":
    """Convert a decoded frame as it is tagged, uint8 `[H, W, 3]`; not turned.

    Raises:
        ValueError: Tagged with a colour space that FFmpeg's converter does not know.
    """
    matrix, full = frame.colorspace, frame.color_range == _FULL
    image: NDArray[np.uint8]
    if full:
        # The names of these formats say so already, and RGB has no matrix.
        full = not (frame.format.name.startswith("yuvj") or frame.format.is_rgb)
    if matrix in _AS_BT601 and not full:
        image = frame.to_ndarray(format="rgb24")
        return image
    if matrix not in _AS_BT601 | _OTHER_MATRICES:
        raise ValueError(f"the video is tagged with colour space {matrix} (FFmpeg's number), which cannot be converted")
    image = frame.to_ndarray(
        format="rgb24",
        src_colorspace=_BT601 if matrix in _AS_BT601 else matrix,
        dst_colorspace=_BT601,
        src_color_range=_FULL if frame.color_range == _FULL else _LIMITED,
        dst_color_range=_LIMITED,
    )
    return image


class VideoReader:
    """One open video; gives the frames nearest to asked times, in order, without decoding any twice.

    Args:
        path: The file.
        episode: Named in errors.
        size: Height and width that the dataset declares; none: whatever the file has.
        tolerance_s: How far a frame may lie from the time that is asked for.
        threads: Threads of the decoder; 0: its own choice.
        stream: Number of the stream among all of the file; none: the first video.

    Raises:
        BadVideoError: By any method; ``episode`` names the one that was asked for.
        UserError: By `read`: the file's frames are of another size than declared.
    """

    def __init__(
        self,
        path: Path,
        episode: int,
        *,
        size: tuple[int, int] | None = None,
        tolerance_s: float = TOLERANCE_S,
        threads: int = 0,
        stream: int | None = None,
    ) -> None:
        import av

        self.path = path
        self._size = size
        self._tolerance = tolerance_s
        try:
            self._container = av.open(str(path.absolute()))
            streams = self._container.streams
            self._stream: Any = streams.video[0] if stream is None else streams[stream]
            if self._stream.codec_context is None:
                raise ValueError("this FFmpeg has no decoder for it")
        except (*DECODING_FAULTS, av.FFmpegError) as error:
            raise BadVideoError.of(path, episode, f"{type(error).__name__}: {error}") from error
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = threads
        self._tick = float(self._stream.time_base or 1)
        self._begins = self._stream.start_time or 0
        self._from_start = False
        self._turn: Turn | None = None
        self._frames: Iterator[Any] | None = None
        # Frames with their seconds: what is asked for lies between these two, or they are read on.
        self._before: tuple[float, Any] | None = None
        self._after: tuple[float, Any] | None = None

    def close(self) -> None:
        """Close the file and free the decoder."""
        self._frames = self._before = self._after = None
        self._container.close()

    def first_frame(self, episode: int) -> Any:
        """The first frame of the file as PyAV has it: its size, format and tags.

        Args:
            episode: Named in errors.
        """
        import av

        try:
            self._seek(self._begins * self._tick)
        except (*DECODING_FAULTS, av.FFmpegError) as error:
            raise BadVideoError.of(self.path, episode, f"{type(error).__name__}: {error}") from error
        if self._after is None:
            raise BadVideoError.of(self.path, episode, "none of its frames can be decoded")
        return self._after[1]

    @property
    def mirrored(self) -> bool:
        """Whether the frames seen last are shown mirrored, and not only turned."""
        return self._turn is not None and self._turn.transpose ^ self._turn.flip_rows ^ self._turn.flip_columns

    def _seek(self, second: float) -> None:
        """Go on from the last place at or before ``second`` at which decoding can begin."""
        offset = round(second / self._tick) - 1
        self._from_start = offset <= self._begins
        self._container.seek(offset, backward=True, any_frame=False, stream=self._stream)
        self._frames, self._before = self._container.decode(self._stream), None
        self._after = self._next()
        if self._after is not None:
            self._turn = find_turn(self._after[1])

    def _next(self) -> tuple[float, Any] | None:
        assert self._frames is not None
        for frame in self._frames:
            # A frame whose references lie before the place where decoding began is marked, and no picture.
            if frame.pts is not None and not frame.is_corrupt:
                return frame.pts * self._tick, frame
        return None

    def _must_seek(self, second: float) -> bool:
        if self._after is None:
            return True
        earliest = self._before or self._after
        return second < earliest[0] - _SAME_S or second > self._after[0] + _SEEK_BEYOND_S

    def _nearest(self, second: float) -> Any:
        before, after = self._before, self._after
        while after is not None and after[0] < second:
            before, after = after, self._next()
        self._before, self._after = before, after
        nearest = after if before is None or (after and after[0] - second < second - before[0]) else before
        if nearest is None:
            return None
        # Right after a seek, frames that come before this one may not have been decodable: it may not be the nearest.
        known = before is not None or self._from_start
        allowed = self._tolerance if known else min(self._tolerance, _SAME_S)
        return nearest[1] if abs(nearest[0] - second) < allowed else None

    def _frame_at(self, second: float) -> Any:
        if self._must_seek(second):
            self._seek(second)
        back = _FIRST_STEP_BACK_S
        # Frames that lead an open group of pictures are shown before its key frame and need the group before it.
        while (frame := self._nearest(second)) is None and not self._from_start and back <= _FARTHEST_BACK_S:
            self._seek(second - back)
            back *= 2
        return frame

    def read(self, seconds: "NDArray[np.float64]", episode: int) -> "NDArray[np.uint8]":
        """RGB frames at ascending times.

        Args:
            seconds: Times in the video, float64 `[n]`, ascending, n >= 1.
            episode: Named in errors.

        Returns:
            uint8 `[n, H, W, 3]`.
        """
        import av
        import numpy as np

        # Filled one by one: a list of single frames would take fresh memory for each, twice.
        frames: NDArray[np.uint8] | None = None
        try:
            for i, second in enumerate(seconds.tolist()):
                frame = self._frame_at(second)
                if frame is None:
                    raise self._missed(seconds, second, episode)
                image = to_rgb(frame)
                if self._turn is not None:
                    image = self._turn.apply(image)
                if frames is None:
                    require_size(image.shape[:2], self._size, self.path)
                    frames = np.empty((len(seconds), *image.shape), np.uint8)
                frames[i] = image
        except (*DECODING_FAULTS, av.FFmpegError) as error:
            self._frames = self._before = self._after = None
            raise BadVideoError.of(self.path, episode, f"{type(error).__name__}: {error}") from error
        assert frames is not None
        return frames

    def read_tensor(self, seconds: "NDArray[np.float64]", episode: int) -> "Tensor":
        """The frames of `read` as a tensor on the CPU."""
        import torch

        return torch.from_numpy(self.read(seconds, episode))

    def _missed(self, seconds: "NDArray[np.float64]", second: float, episode: int) -> BadVideoError:
        self._frames = self._before = self._after = None
        # All before it were there. From the first one on, not all packets up to this one may be looked at.
        rest = seconds[seconds >= second]
        found = stream_times(self.path, second, float(rest[-1]), self._stream.index)
        mismatch = find_mismatch(rest, found, self._tolerance) if len(found.seconds) else None
        if mismatch is None:
            return BadVideoError.of(self.path, episode, f"no frame at {second:.4f} s can be decoded")
        return BadVideoError.of(self.path, episode, str(mismatch), mismatch.fix)
