"""Frames in order: every video is decoded once, from front to back, at the speed of the decoder."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.data.columns import read_column
from hlrp.data.dataset_info import DatasetInfo, check_episodes
from hlrp.data.episodes import Episodes, check_camera, read_episodes
from hlrp.data.images import BadVideoError, EmbeddedImages, declared_size
from hlrp.data.video import VideoReader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    import numpy as np
    import torch

    tensor = torch.from_numpy(frames)
    resized = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", antialias=True, align_corners=False)
    result: np.ndarray[Any, np.dtype[np.uint8]] = resized.numpy()
    return result


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

    The pixels are those of `hlrp.data.video`, whatever reads them, resized by `resize_frames` when asked.

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
                        reader = VideoReader(
                            paths[episode],
                            episode,
                            size=self._recorded,
                            tolerance_s=self.table.info.tolerance_s,
                            threads=threads,
                        )
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
