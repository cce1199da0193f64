"""Frames in order: every video is decoded once, from front to back, at the speed of the decoder."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.data.columns import read_column
from hlrp.data.dataset_info import DatasetInfo, check_episodes
from hlrp.data.episodes import Episodes, check_camera, read_episodes
from hlrp.data.images import BadVideoError, EmbeddedImages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOLERANCE_S = 1e-4
"""How far a frame's time in the video may lie from its time in the table: LeRobot's own default."""
_SEEK_BEYOND_S = 2.0


class FrameChunk(NamedTuple):
    """Consecutive frames of one episode.

    Args:
        episode: Episode number.
        start: Index of the first frame inside the episode.
        frames: uint8 `[n, C, H, W]`, a view of a buffer of its own with the channels last in memory.
    """

    episode: int
    start: int
    frames: "NDArray[np.uint8]"


def frame_size(info: DatasetInfo, camera: str) -> tuple[int, int]:
    """Height and width in which ``camera`` was recorded."""
    feature = info.features[camera]
    shape, names = list(feature["shape"]), feature.get("names") or []
    channels_first = names[:1] in (["channels"], ["channel"]) or (not names and shape[0] in (1, 3, 4))
    height, width = shape[1:] if channels_first else shape[:2]
    return int(height), int(width)


def target_size(size: int | tuple[int, int] | None, native: tuple[int, int]) -> tuple[int, int]:
    """Height and width asked for: none is ``native``, a number is a square (the aspect ratio is not kept)."""
    if size is None:
        return native
    return (size, size) if isinstance(size, int) else size


def resize_frames(frames: "NDArray[np.uint8]", size: tuple[int, int]) -> "NDArray[np.uint8]":
    """Resize uint8 `[n, C, H, W]` as torchvision's `Resize(size, antialias=True)` does on uint8 tensors."""
    if frames.shape[-2:] == size:
        return frames
    import numpy as np
    import torch

    tensor = torch.from_numpy(frames)
    resized = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", antialias=True, align_corners=False)
    result: np.ndarray[Any, np.dtype[np.uint8]] = resized.numpy()
    return result


class VideoReader:
    """One open video; gives the frames nearest to asked times, in order, without decoding any twice.

    Raises:
        BadVideoError: By any method; ``episode`` names the one that was asked for.
    """

    def __init__(self, path: Path, episode: int, *, threads: int = 0) -> None:
        import av

        self.path = path
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (OSError, IndexError, ValueError) as error:
            raise BadVideoError(path, episode, f"{type(error).__name__}: {error}") from error
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = threads
        self._tick = float(self._stream.time_base)
        self._frames: Iterator[Any] | None = None
        self._before: Any = None
        self._after: Any = None

    def close(self) -> None:
        """Close the file and free the decoder."""
        self._frames = self._before = self._after = None
        self._container.close()

    def _time(self, frame: Any) -> float:
        return float(frame.pts * self._tick)

    def _seek(self, second: float) -> None:
        self._container.seek(round(second / self._tick) - 1, backward=True, any_frame=False, stream=self._stream)
        self._frames, self._before = self._container.decode(self._stream), None
        self._after = self._next()

    def _next(self) -> Any:
        assert self._frames is not None
        return next((frame for frame in self._frames if frame.pts is not None), None)

    def _must_seek(self, second: float) -> bool:
        if self._frames is None or self._after is None:
            return True
        earliest = self._before if self._before is not None else self._after
        return second < self._time(earliest) - TOLERANCE_S or second > self._time(self._after) + _SEEK_BEYOND_S

    def _nearest(self, second: float) -> Any:
        while self._after is not None and self._time(self._after) < second:
            self._before, self._after = self._after, self._next()
        near = [f for f in (self._before, self._after) if f is not None]
        frame = min(near, key=lambda f: abs(self._time(f) - second), default=None)
        if frame is None or abs(self._time(frame) - second) >= TOLERANCE_S:
            found = "the video ends before it" if frame is None else f"the nearest is at {self._time(frame):.4f} s"
            raise ValueError(f"no frame at {second:.4f} s, {found}")
        return frame

    def read(self, seconds: "NDArray[np.float64]", episode: int) -> "NDArray[np.uint8]":
        """RGB frames at ascending times.

        Args:
            seconds: Times in the video, float64 `[n]`, ascending, n >= 1.
            episode: Named in errors.

        Returns:
            uint8 `[n, H, W, 3]`.
        """
        import numpy as np

        # Filled one by one: a list of single frames would take fresh memory for each, twice.
        frames: NDArray[np.uint8] | None = None
        try:
            if self._must_seek(float(seconds[0])):
                self._seek(float(seconds[0]))
            for i, second in enumerate(seconds.tolist()):
                if second > (self._time(self._after) if self._after is not None else second) + _SEEK_BEYOND_S:
                    self._seek(second)
                image = self._nearest(second).to_ndarray(format="rgb24")
                if frames is None:
                    frames = np.empty((len(seconds), *image.shape), np.uint8)
                frames[i] = image
        except (OSError, ValueError) as error:
            self._frames = self._before = self._after = None
            raise BadVideoError(self.path, episode, f"{type(error).__name__}: {error}") from error
        assert frames is not None
        return frames


class FrameTimes:
    """Where the frames of an episode lie in its video file, as LeRobot computes it.

    Args:
        table: Episode table of the dataset.
        camera: A video feature.
    """

    def __init__(self, table: Episodes, camera: str) -> None:
        self._table, self._begins = table, table.video[camera][1]
        self._stamps = read_column(table.info, "timestamp", table.present)[:, 0]

    def seconds(self, episode: int) -> "NDArray[np.float64]":
        """Time of every frame of ``episode`` in the file, float64 `[n]`."""
        import numpy as np

        rows = slice(int(self._table.start[episode]), int(self._table.end[episode]))
        return self._stamps[rows].astype(np.float64) + self._begins[episode]


def sequential_frames(
    info: DatasetInfo,
    camera: str | None = None,
    episodes: Sequence[int] | None = None,
    size: int | tuple[int, int] | None = None,
    *,
    chunk: int = 64,
    threads: int = 0,
    on_bad: Callable[[BadVideoError], None] | None = None,
) -> Iterator[FrameChunk]:
    """Decode episodes from front to back; memory stays constant.

    The pixels are those of `LeRobotDataset.__getitem__` (through PyAV), resized by `resize_frames` when asked.

    Args:
        info: The dataset.
        camera: Feature to read; none: the only one there is.
        episodes: Episodes to read; none: all. They come in ascending order.
        size: Height and width, or one number for a square; none: as recorded.
        chunk: Most frames per item, > 0.
        threads: Threads of the decoder; 0: its own choice.
        on_bad: Called with an episode that cannot be decoded, which is then left; none: the error is raised.

    Yields:
        Frames in order; an episode is one or several chunks, none of which crosses its end.

    Raises:
        UserError: No such camera or episode.
        BadVideoError: Naming file and episode, when ``on_bad`` is none.
    """
    check_episodes(info, list(episodes) if episodes is not None else None)
    decoder = SequentialDecoder(read_episodes(info), check_camera(info, camera), size)
    chosen = sorted(set(episodes)) if episodes is not None else list(range(info.episodes))
    yield from decoder.frames(chosen, chunk=chunk, threads=threads, on_bad=on_bad)


class SequentialDecoder:
    """What several passes over one camera share: `sequential_frames` without reading the tables each time.

    Args:
        table: Episode table of the dataset.
        camera: Feature to read.
        size: Height and width, or one number for a square; none: as recorded.
    """

    def __init__(self, table: Episodes, camera: str, size: int | tuple[int, int] | None = None) -> None:
        self.table, self.camera = table, camera
        self.size = target_size(size, frame_size(table.info, camera))
        self._is_video = table.info.features[camera]["dtype"] == "video"
        self._times = FrameTimes(table, camera) if self._is_video else None
        self._images = None if self._is_video else EmbeddedImages(table, camera)

    def frames(
        self,
        episodes: Sequence[int],
        *,
        chunk: int = 64,
        threads: int = 0,
        on_bad: Callable[[BadVideoError], None] | None = None,
    ) -> Iterator[FrameChunk]:
        """Frames of ``episodes`` in that order; see `sequential_frames`. Safe to call from several threads."""
        source = self._video_chunks(episodes, chunk, threads) if self._is_video else self._image_chunks(episodes, chunk)
        for item in source:
            if not isinstance(item, BadVideoError):
                yield item._replace(frames=resize_frames(item.frames, self.size))
            elif on_bad is None:
                raise item
            else:
                on_bad(item)

    def _video_chunks(self, episodes: Sequence[int], chunk: int, threads: int) -> Iterator[FrameChunk | BadVideoError]:
        assert self._times is not None
        paths = self.table.video[self.camera][0]
        reader: VideoReader | None = None
        try:
            for episode in episodes:
                try:
                    if reader is None or reader.path != paths[episode]:
                        if reader is not None:
                            reader.close()
                            reader = None
                        reader = VideoReader(paths[episode], episode, threads=threads)
                    seconds = self._times.seconds(episode)
                    for start in range(0, len(seconds), chunk):
                        frames = reader.read(seconds[start : start + chunk], episode)
                        yield FrameChunk(episode, start, frames.transpose(0, 3, 1, 2))
                except BadVideoError as error:
                    yield error
        finally:
            if reader is not None:
                reader.close()

    def _image_chunks(self, episodes: Sequence[int], chunk: int) -> Iterator[FrameChunk | BadVideoError]:
        import numpy as np

        # The index of the tables is shared; what is loaded of them belongs to one thread.
        images = copy.copy(self._images)
        assert images is not None
        for episode in episodes:
            try:
                first, length = int(self.table.start[episode]), int(self.table.lengths[episode])
                for start in range(0, length, chunk):
                    indices = np.arange(first + start, first + min(start + chunk, length))
                    yield FrameChunk(episode, start, images.read_frames(indices, episode))
            except BadVideoError as error:
                yield error
