"""Frames in order: every video is decoded once, from front to back, at the speed of the decoder."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hlrp.data.columns import read_column
from hlrp.data.dataset_info import DatasetInfo, check_episodes
from hlrp.data.episodes import Episodes, check_camera, read_episodes
from hlrp.data.images import BadVideoError, EmbeddedImages, declared_size
from hlrp.data.open_video import OpenVideo, open_video, pixel_source
from hlrp.data.streamed_stamps import StreamedStamps
from hlrp.data.video_times import keyframe_interval, without_rounding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_PIECE_BYTES = 16 << 20
"""Frames as recorded that are held at a time, about: large ones are read a few at a time."""


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


class Span(NamedTuple):
    """A part of an episode.

    Args:
        episode: Episode number.
        start: Index of its first frame inside the episode.
        stop: Index behind its last one.
    """

    episode: int
    start: int
    stop: int


class DeviceChunk(NamedTuple):
    """Consecutive frames of one episode on a device.

    Args:
        episode: Episode number.
        start: Index of the first frame inside the episode.
        frames: uint8 `[n, H, W, C]` on the device: channels last, as decoders give them.
    """

    episode: int
    start: int
    frames: "Tensor"


def frame_size(info: DatasetInfo, camera: str) -> tuple[int, int]:
    """Height and width in which ``camera`` was recorded."""
    return declared_size(info.features[camera])


def target_size(size: int | tuple[int, int] | None, native: tuple[int, int]) -> tuple[int, int]:
    """Height and width asked for: none is ``native``, a number is a square (the aspect ratio is not kept)."""
    if size is None:
        return native
    return (size, size) if isinstance(size, int) else size


def resize_frames(frames: "NDArray[np.uint8]", size: tuple[int, int]) -> "NDArray[np.uint8]":
    """Resize uint8 `[n, C, H, W]` as torchvision's `Resize(size, antialias=True)` does on uint8 tensors."""
    if frames.shape[-2:] == size:
        return frames
    import torch

    result: NDArray[np.uint8] = resize_tensor(torch.from_numpy(frames), size).numpy()
    return result


def resize_tensor(frames: "Tensor", size: tuple[int, int]) -> "Tensor":
    """`resize_frames` of a tensor, on its device.

    A CPU resizes in whole numbers, other devices in floating point: a level may differ by one.
    """
    import torch

    if tuple(frames.shape[-2:]) == size:
        return frames
    if frames.device.type != "cpu":
        return resized_in_floats(frames, size)
    return torch.nn.functional.interpolate(frames, size=size, mode="bilinear", antialias=True, align_corners=False)


def resized_in_floats(frames: "Tensor", size: tuple[int, int]) -> "Tensor":
    """`resize_frames` of a tensor within one level, for devices that cannot resize bytes."""
    import torch

    smooth = torch.nn.functional.interpolate(
        frames.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return smooth.round().clamp(0, 255).to(torch.uint8)


class FrameTimes:
    """Where the frames of an episode lie in its video file, as LeRobot computes it but for the rounding of float32.

    Args:
        table: Episode table of the dataset.
        camera: A video feature.
    """

    def __init__(self, table: Episodes, camera: str) -> None:
        self._table, self._begins = table, table.video[camera][1]
        streamed = table.info.stream is not None
        self._stamps = None if streamed else read_column(table.info, "timestamp", table.present)[:, 0]
        self._files = StreamedStamps(table) if streamed else None

    def seconds(self, episode: int) -> "NDArray[np.float64]":
        """Time of every frame of ``episode`` in the file, float64 `[n]`.

        Raises:
            UserError: The table of a streamed dataset cannot be fetched, or lacks rows.
        """
        if self._files is not None:
            stamps = self._files.of(episode)
        else:
            assert self._stamps is not None
            stamps = self._stamps[int(self._table.start[episode]) : int(self._table.end[episode])]
        return without_rounding(stamps, self._table.info.fps) + self._begins[episode]


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

    The pixels are those of `hlrp.data.open_video`, whatever reads them, resized by `resize_frames` when asked.

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
        UserError: No such camera or episode, or frames of another size than `meta/info.json` declares.
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
        self._recorded = frame_size(table.info, camera)
        self.size = target_size(size, self._recorded)
        is_video = table.info.features[camera]["dtype"] == "video"
        self._times = FrameTimes(table, camera) if is_video else None
        self._images = None if is_video else EmbeddedImages(table, camera)

    @property
    def is_video(self) -> bool:
        """Whether the camera's frames are videos, and not pictures in tables."""
        return self._times is not None

    def source(self, device: str = "cpu") -> str:
        """What decodes these frames for ``device``, with versions."""
        if self.is_video:
            return pixel_source(self.table.info.video_backend, device)
        import PIL

        return f"Pillow {PIL.__version__}"

    def keyframe_interval(self, episode: int) -> int:
        """Frames from which decoding can begin are at most so far apart, in the file of ``episode``."""
        if not self.is_video:
            return 1
        return keyframe_interval(self.table.info.here(self.table.video[self.camera][0][episode]))

    def frames(
        self,
        parts: Iterable[int | Span],
        *,
        chunk: int = 64,
        threads: int = 0,
        on_bad: Callable[[BadVideoError], None] | None = None,
    ) -> Iterator[FrameChunk]:
        """Frames of episodes, or parts of them, in that order; see `sequential_frames`. Safe in several threads.

        Parts are asked for one by one, when the one before is through; meanwhile its video stays open.
        """
        chunk = self._piece(chunk)
        if self._times is None:
            source = self._image_chunks(self._spans(parts), chunk)
        else:
            read: Callable[..., NDArray[np.uint8]] = lambda video, *asked: video.read(*asked)  # noqa: E731
            source = self._video_chunks(self._spans(parts), chunk, threads, "cpu", read)
        for episode, start, frames in _without_bad(source, on_bad):
            yield FrameChunk(episode, start, resize_frames(frames.transpose(0, 3, 1, 2), self.size))

    def frames_on(
        self,
        device: str,
        parts: Iterable[int | Span],
        *,
        chunk: int = 64,
        threads: int = 0,
        on_bad: Callable[[BadVideoError], None] | None = None,
    ) -> Iterator[DeviceChunk]:
        """Frames of videos, decoded and resized on ``device`` by torchcodec; otherwise as `frames`.

        A file that is left to PyAV gives frames on the CPU.
        """
        chunk = self._piece(chunk)
        read: Callable[..., Tensor] = lambda video, *asked: video.read_tensor(*asked)  # noqa: E731
        source = self._video_chunks(self._spans(parts), chunk, threads, device, read)
        for episode, start, frames in _without_bad(source, on_bad):
            resized = resize_tensor(frames.permute(0, 3, 1, 2), self.size)
            yield DeviceChunk(episode, start, resized.permute(0, 2, 3, 1).contiguous())

    def _piece(self, chunk: int) -> int:
        """Frames to read at a time: ``chunk``, or less of large ones."""
        return max(1, min(chunk, _PIECE_BYTES // (3 * self._recorded[0] * self._recorded[1])))

    def _spans(self, parts: Iterable[int | Span]) -> Iterator[Span]:
        for part in parts:
            yield part if isinstance(part, Span) else Span(part, 0, int(self.table.lengths[part]))

    def _video_chunks[F](
        self,
        spans: Iterable[Span],
        chunk: int,
        threads: int,
        device: str,
        read: "Callable[[OpenVideo, NDArray[np.float64], int], F]",
    ) -> Iterator[tuple[int, int, F] | BadVideoError]:
        assert self._times is not None
        paths, info = self.table.video[self.camera][0], self.table.info
        video: OpenVideo | None = None
        try:
            for episode, first, stop in spans:
                try:
                    if video is None or video.path != paths[episode]:
                        if video is not None:
                            video.close()
                            video = None
                        video = open_video(
                            info.here(paths[episode]),
                            episode,
                            backend=info.video_backend,
                            size=self._recorded,
                            tolerance_s=info.tolerance_s,
                            threads=threads,
                            device=device,
                        )
                    seconds = self._times.seconds(episode)[:stop]
                    for start in range(first, len(seconds), chunk):
                        yield episode, start, read(video, seconds[start : start + chunk], episode)
                except BadVideoError as error:
                    yield error
        finally:
            if video is not None:
                video.close()

    def _image_chunks(
        self, spans: Iterable[Span], chunk: int
    ) -> "Iterator[tuple[int, int, NDArray[np.uint8]] | BadVideoError]":
        import numpy as np

        # The index of the tables is shared; what is loaded of them belongs to one thread.
        images = copy.copy(self._images)
        assert images is not None
        for episode, first, stop in spans:
            try:
                begin = int(self.table.start[episode])
                for start in range(first, stop, chunk):
                    indices = np.arange(begin + start, begin + min(start + chunk, stop))
                    yield episode, start, images.read_frames(indices, episode).transpose(0, 2, 3, 1)
            except BadVideoError as error:
                yield error


def _without_bad[T](source: Iterator[T | BadVideoError], on_bad: Callable[[BadVideoError], None] | None) -> Iterator[T]:
    """What ``source`` gives; its errors go to ``on_bad``, or are raised."""
    for item in source:
        if not isinstance(item, BadVideoError):
            yield item
        elif on_bad is None:
            raise item
        else:
            on_bad(item)
