"""Which library decodes a video: the one door to its frames, whatever library that is.

PyAV (`hlrp.data.video`) is what all pixels are compared with. torchcodec decodes on a CPU or a CUDA device; a file that
it would show otherwise, or cannot read, is read by PyAV all the same.
"""

import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hlrp.data.images import BadVideoError, require_size
from hlrp.data.video import VideoReader, pyav_source
from hlrp.data.video_backends import VideoBackend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_LOG = logging.getLogger("hlrp.data")
_OPEN_VIDEOS = 8
# What both libraries show alike: 8 bits in limited range, of even height and width, with one of FFmpeg's matrices of
# BT.709, BT.601 (untagged, BT.470BG, SMPTE 170M) and BT.2020, and not mirrored.
_ALIKE_FORMATS = frozenset(("yuv420p", "yuv422p", "yuv444p"))
_ALIKE_MATRICES = frozenset((1, 2, 5, 6, 9))
_FULL_RANGE = 2


def pixel_source(backend: VideoBackend = "pyav", device: str = "cpu") -> str:
    """What decides pixels besides the files: belongs into the identity of whatever keeps decoded frames."""
    if backend == "pyav":
        return pyav_source()
    import torchcodec

    return f"torchcodec {torchcodec.__version__}, FFmpeg {torchcodec.ffmpeg_major_version}, {device}; {pyav_source()}"


class OpenVideo(Protocol):
    """One open video, whatever decodes it."""

    path: Path

    def read(self, seconds: "NDArray[np.float64]", episode: int) -> "NDArray[np.uint8]":
        """RGB frames at ascending times `[n]`: uint8 `[n, H, W, 3]`; see `VideoReader.read`."""

    def read_tensor(self, seconds: "NDArray[np.float64]", episode: int) -> "Tensor":
        """The same, on the device on which they were decoded."""

    def close(self) -> None:
        """Close the file and free the decoder."""


def open_video(
    path: Path,
    episode: int,
    *,
    backend: VideoBackend = "pyav",
    size: tuple[int, int] | None = None,
    tolerance_s: float,
    threads: int = 0,
    device: str = "cpu",
) -> OpenVideo:
    """Open a video.

    Args:
        path: The file.
        episode: Named in errors.
        backend: What decodes it, if it shows this file as PyAV does; see `hlrp.data.video_backends`.
        size: Height and width that the dataset declares; none: whatever the file has.
        tolerance_s: How far a frame may lie from the time that is asked for.
        threads: Threads of the decoder; 0: its own choice.
        device: Where torchcodec decodes.

    Raises:
        BadVideoError: The file cannot be opened.
    """
    plain = VideoReader(path, episode, size=size, tolerance_s=tolerance_s, threads=threads)
    if backend == "pyav" or not _shown_alike(plain, episode):
        return plain
    return _TorchcodecReader(plain, size, tolerance_s, threads, device)


def _shown_alike(video: VideoReader, episode: int) -> bool:
    """Whether torchcodec shows a file, by its first frame, as PyAV does."""
    try:
        frame = video.first_frame(episode)
    except BadVideoError:
        return False  # PyAV says what is wrong, or reads what is behind it
    return (
        not video.mirrored
        and frame.format.name in _ALIKE_FORMATS
        and frame.colorspace in _ALIKE_MATRICES
        and frame.color_range != _FULL_RANGE
        and frame.height % 2 == frame.width % 2 == 0
    )


class _TorchcodecReader:
    """A video that torchcodec decodes; what it cannot read is left to PyAV, which says what is wrong with it."""

    def __init__(
        self, plain: VideoReader, size: tuple[int, int] | None, tolerance_s: float, threads: int, device: str
    ) -> None:
        self.path = plain.path
        self._plain, self._size, self._tolerance = plain, size, tolerance_s
        self._options: dict[str, Any] = {"num_ffmpeg_threads": threads, "device": device, "dimension_order": "NHWC"}
        self._decoder: Any = None
        self._failed = False

    def read(self, seconds: "NDArray[np.float64]", episode: int) -> "NDArray[np.uint8]":
        """See `OpenVideo.read`."""
        frames: NDArray[np.uint8] = self.read_tensor(seconds, episode).cpu().numpy()
        return frames

    def read_tensor(self, seconds: "NDArray[np.float64]", episode: int) -> "Tensor":
        """See `OpenVideo.read_tensor`."""
        import torch

        if self._failed:
            return self._plain.read_tensor(seconds, episode)
        try:
            frames = self._decode(seconds)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, LookupError) as error:
            self._decoder = None
            frames = self._plain.read_tensor(seconds, episode)
            self._failed = True  # of a file that PyAV cannot read there either, later frames may be whole
            _LOG.warning("%s: read by PyAV, since torchcodec failed: %s", self.path, str(error).partition("\n")[0])
        require_size(frames.shape[1:3], self._size, self.path)
        return frames

    def _decode(self, seconds: "NDArray[np.float64]") -> "Tensor":
        """Frames at ``seconds``.

        Raises:
            RuntimeError, ValueError, LookupError: They cannot be decoded.
        """
        import numpy as np
        import torch
        from torchcodec.decoders import VideoDecoder

        if self._decoder is None:
            self._decoder = VideoDecoder(str(self.path.absolute()), **self._options)
        # torchcodec gives what a player shows at a time, the newest frame: ask as late as the right one may lie.
        latest = np.minimum(seconds + self._tolerance, np.nextafter(self._decoder.metadata.end_stream_seconds, 0))
        batch = self._decoder.get_frames_played_at(torch.from_numpy(latest))
        off = np.abs(batch.pts_seconds.numpy() - seconds).max()
        if off >= self._tolerance:
            raise LookupError(f"the frame nearest to one that is asked for lies {off:.4f} s away from it")
        frames: Tensor = batch.data
        return frames

    def close(self) -> None:
        """See `OpenVideo.close`."""
        self._decoder = None
        self._plain.close()


class OpenVideos:
    """The videos of one camera, a few of them kept open; may be handed to other processes.

    Args:
        size: Height and width that the dataset declares.
        tolerance_s: How far a frame may lie from the time that is asked for.
        backend: What decodes them.
    """

    def __init__(self, size: tuple[int, int], tolerance_s: float, backend: VideoBackend = "pyav") -> None:
        self._options: dict[str, Any] = {"size": size, "tolerance_s": tolerance_s, "backend": backend, "threads": 1}
        self._open: OrderedDict[Path, OpenVideo] = OrderedDict()
        self._process = os.getpid()
        self._inherited: list[object] = []

    def read(self, path: Path, seconds: "NDArray[np.float64]", episode: int) -> "NDArray[np.uint8]":
        """Frames of one file by time `[n]`, ascending: uint8 `[n, H, W, 3]`; see `OpenVideo.read`."""
        if self._process != os.getpid():
            # A fork shares file positions with its parent: leave the parent's decoders untouched, and alive, since
            # freeing them here would wait for threads that do not exist in this process.
            self._inherited.append(self._open)
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            if len(self._open) >= _OPEN_VIDEOS:
                self._open.popitem(last=False)[1].close()
            self._open[path] = open_video(path, episode, **self._options)
        self._open.move_to_end(path)
        return self._open[path].read(seconds, episode)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict(), "_inherited": []}
