"""Ways to get the frames of one camera by global frame index."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hlrp.data.decode import FrameTimes, VideoReader, frame_size, resize_frames, target_size
from hlrp.data.episodes import Episodes
from hlrp.data.images import EmbeddedImages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OPEN_VIDEOS = 8


class FrameReader(Protocol):
    """Frames of one camera of one dataset."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""

    def read(self, indices: "NDArray[np.int64]") -> "NDArray[np.uint8]":
        """Frames by global index `[n]`, any order: uint8 `[n, C, H, W]`."""


class DirectReader:
    """Decodes the asked frames each time: no preparation and little memory, but slow.

    Args:
        table: Episode table of the dataset.
        camera: Feature to read.
        size: Height and width asked for; none: as recorded.
    """

    def __init__(self, table: Episodes, camera: str, size: int | tuple[int, int] | None = None) -> None:
        self._table, self._camera = table, camera
        self.size = target_size(size, frame_size(table.info, camera))
        self._is_video = table.info.features[camera]["dtype"] == "video"
        self._times = FrameTimes(table, camera) if self._is_video else None
        self._images = None if self._is_video else EmbeddedImages(table, camera)
        self._open: OrderedDict[Path, VideoReader] = OrderedDict()
        self._process = os.getpid()
        self._inherited: list[object] = []

    def read(self, indices: "NDArray[np.int64]") -> "NDArray[np.uint8]":
        """Frames by global index `[n]`, any order: uint8 `[n, C, H, W]`.

        Raises:
            BadVideoError: Naming file and episode.
        """
        import numpy as np

        wanted, back = np.unique(indices, return_inverse=True)
        result = np.empty((len(wanted), 3, *self.size), np.uint8)
        episodes = self._table.episode_of(wanted)
        for episode in np.unique(episodes):
            rows = np.flatnonzero(episodes == episode)
            result[rows] = resize_frames(self._decode(wanted[rows], int(episode)), self.size)
        return result[back]

    def _decode(self, indices: "NDArray[np.int64]", episode: int) -> "NDArray[np.uint8]":
        if self._images is not None:
            return self._images.read_frames(indices, episode)
        assert self._times is not None
        seconds = self._times.seconds(episode)[indices - int(self._table.start[episode])]
        video = self._video(self._table.video[self._camera][0][episode], episode)
        return video.read(seconds, episode).transpose(0, 3, 1, 2)

    def _video(self, path: Path, episode: int) -> VideoReader:
        if self._process != os.getpid():
            # A fork shares file positions with its parent: leave the parent's decoders untouched, and alive, since
            # freeing them here would wait for threads that do not exist in this process.
            self._inherited.append(self._open)
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            if len(self._open) >= _OPEN_VIDEOS:
                self._open.popitem(last=False)[1].close()
            self._open[path] = VideoReader(path, episode, threads=1)
        self._open.move_to_end(path)
        return self._open[path]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict(), "_inherited": []}
