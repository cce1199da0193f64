"""Decoding ahead in a thread, onto a device: decoding, transfer and what is done with the frames overlap."""

import queue
import threading
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hlrp.data.decode import FrameChunk, SequentialDecoder
from hlrp.data.images import BadVideoError

_AHEAD = 4
"""Chunks that may wait: enough to cover the encoder's pauses, few enough to stay small."""


class DeviceChunk(NamedTuple):
    """Consecutive frames of one episode on the device.

    Args:
        episode: Episode number.
        start: Index of the first frame inside the episode.
        frames: uint8 `[n, H, W, C]` on the device: channels last, as decoders give them.
    """

    episode: int
    start: int
    frames: Tensor


class FramePipeline:
    """Decodes episodes in a thread and moves their frames to a device once.

    To a CUDA device frames go through pinned memory on a stream of their own, so that the copy runs beside kernels.

    Args:
        decoder: Of the camera.
        episodes: Which, in the order in which they come.
        device: Where the frames go.
        chunk: Most frames of an item.
        skip_bad: Give a `BadVideoError` in place of the rest of an episode that cannot be decoded; otherwise it is
            raised.
        threads: Threads of the video decoder; 0: its own choice.
    """

    def __init__(
        self,
        decoder: SequentialDecoder,
        episodes: Sequence[int],
        device: torch.device,
        *,
        chunk: int = 64,
        skip_bad: bool = False,
        threads: int = 0,
    ) -> None:
        self._decoder, self._episodes, self._device = decoder, episodes, device
        self._chunk, self._skip_bad, self._threads = chunk, skip_bad, threads
        self._queue: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._pinned = _PinnedBuffers() if device.type == "cuda" else None

    def __iter__(self) -> Generator[DeviceChunk | BadVideoError]:
        thread = threading.Thread(target=self._decode, name="decode", daemon=True)
        thread.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BadVideoError) and self._skip_bad:
                    yield item
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield self._to_device(item)
        finally:
            self._stop.set()
            thread.join()

    def _decode(self) -> None:
        try:
            for item in self._decoder.frames(
                self._episodes,
                chunk=self._chunk,
                threads=self._threads,
                on_bad=self._put_bad if self._skip_bad else None,
            ):
                # Pictures and resized frames may have another layout in memory than decoded video.
                frames = np.ascontiguousarray(item.frames.transpose(0, 2, 3, 1))
                if not self._put((item, self._pinned.fill(frames) if self._pinned else torch.from_numpy(frames))):
                    return
            self._put(None)
        except BaseException as error:  # whatever it is, it belongs to the thread that waits for frames
            self._put(error)

    def _put_bad(self, error: BadVideoError) -> None:
        self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def _to_device(self, item: tuple[FrameChunk, Any]) -> DeviceChunk:
        chunk, frames = item
        on_device = self._pinned.send(frames, self._device) if self._pinned else frames.to(self._device)
        return DeviceChunk(chunk.episode, chunk.start, on_device)


class _PinnedBuffers:
    """Page-locked buffers in turn; one is filled again only after its copy to the device has ended."""

    def __init__(self) -> None:
        # Two more than can wait: one is being filled while another is being sent.
        self._free: queue.Queue[tuple[Tensor | None, Any]] = queue.Queue()
        for _ in range(_AHEAD + 2):
            self._free.put((None, None))
        self._stream: Any = None

    def fill(self, frames: "np.ndarray[Any, Any]") -> Tensor:
        """Copy frames into a free buffer; called by the decoding thread."""
        buffer, sent = self._free.get()
        if sent is not None:
            sent.synchronize()
        if buffer is None or buffer.shape[1:] != frames.shape[1:] or len(buffer) < len(frames):
            buffer = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)
        buffer[: len(frames)].copy_(torch.from_numpy(frames))
        return buffer[: len(frames)]

    def send(self, frames: Tensor, device: torch.device) -> Tensor:
        """Start the copy to the device; the current stream waits for it, the host does not."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        current = torch.cuda.current_stream(device)
        with torch.cuda.stream(self._stream):
            result = frames.to(device, non_blocking=True)
            sent = torch.cuda.Event()
            sent.record()
        current.wait_stream(self._stream)
        # Its memory was taken on the copying stream; it may be taken anew only after the current one is done with it.
        result.record_stream(current)
        whole = frames if frames._base is None else frames._base
        self._free.put((whole, sent))
        return result
