"""Decoding ahead in threads, onto a device: decoding, transfer and what is done with the frames overlap."""

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlrp.data.decode import DeviceChunk, SequentialDecoder
from hlrp.data.images import BadVideoError
from hlrp.ranks import own_cores

_JOB_FRAMES = 512
"""Frames of a job, about: opening a video and finding a place in it costs as much as some tens of small frames."""

_AHEAD_BYTES = 16 << 20
"""Frames that a thread has decoded and nobody has taken yet, about."""

_PINNED = 3


class _Job:
    """Neighbouring episodes that one thread decodes, and what it has decoded of them."""

    def __init__(self, episodes: list[int], ahead: int) -> None:
        self.episodes = episodes
        self.decoded: queue.Queue[DeviceChunk | BaseException | None] = queue.Queue(ahead)


class _Begun:
    """Jobs that a thread has begun, in the order of the episodes; each is made when it begins."""

    def __init__(self, groups: Sequence[list[int]], ahead: int) -> None:
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._groups, self._ahead, self._lock = iter(groups), ahead, threading.Lock()

    def next(self) -> _Job | None:
        """The next one; None: there is no more."""
        with self._lock:
            group = next(self._groups, None)
            if group is None:
                return None
            job = _Job(group, self._ahead)
            self.jobs.put(job)
            return job


class FramePipeline:
    """Decodes episodes in threads, several at once but given in order, and moves their frames to a device once.

    What waits is limited to some tens of megabytes a thread, whatever the size of frames and the length of episodes.
    Frames that a CPU decodes are resized there, in the same thread. To a CUDA device they go through pinned memory on a
    stream of their own, so that the copy runs beside kernels; with torchcodec that device decodes and resizes itself.

    Args:
        decoder: Of the camera.
        episodes: Which, in the order in which they come.
        device: Where the frames go.
        chunk: Most frames of an item; of large frames there are fewer.
        skip_bad: Give a `BadVideoError` in place of the rest of an episode that cannot be decoded; otherwise it is
            raised.
        workers: Threads that decode, and all that do; 0: one per core of this process, and where there are fewer
            videos than cores the decoder's own threads beside.
    """

    def __init__(
        self,
        decoder: SequentialDecoder,
        episodes: Sequence[int],
        device: torch.device,
        *,
        chunk: int = 64,
        skip_bad: bool = False,
        workers: int = 0,
    ) -> None:
        self._decoder, self._device = decoder, device
        frame_bytes = decoder.size[0] * decoder.size[1] * 3
        # No more depends on the number of threads: the same frames come in the same chunks with any.
        self._chunk = max(1, min(chunk, _AHEAD_BYTES // (2 * frame_bytes)))
        self._skip_bad = skip_bad
        ahead = max(2, _AHEAD_BYTES // (self._chunk * frame_bytes))
        self._ahead = ahead
        self._groups = [*self._neighbours(episodes)]
        self.workers = max(1, min(workers or own_cores(), len(self._groups)))
        self.decoder_threads = 1 if workers else max(1, own_cores() // self.workers)
        there = device.type == "cuda" and decoder.is_video and decoder.table.info.video_backend == "torchcodec"
        self._decoding_device = str(device) if there else None
        self._stop = threading.Event()
        self._pinned = _PinnedBuffers(device) if device.type == "cuda" else None

    @property
    def source(self) -> str:
        """What decodes the frames, with versions."""
        return self._decoder.source("cpu" if self._decoding_device is None else self._device.type)

    def _neighbours(self, episodes: Sequence[int]) -> Iterator[list[int]]:
        lengths, group, frames = self._decoder.table.lengths, list[int](), 0
        for episode in episodes:
            group.append(episode)
            frames += int(lengths[episode])
            if frames >= _JOB_FRAMES:
                yield group
                group, frames = [], 0
        if group:
            yield group

    def __iter__(self) -> Generator[DeviceChunk | BadVideoError]:
        # A thread begins a job only if it is among the next few: the others' results would have to wait in memory.
        may_begin = threading.Semaphore(self.workers)
        begun = _Begun(self._groups, self._ahead)
        threads = [
            threading.Thread(target=self._work, args=(begun, may_begin), name=f"decode-{i}", daemon=True)
            for i in range(self.workers)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in self._groups:
                job = begun.jobs.get()
                while (item := job.decoded.get()) is not None:
                    if isinstance(item, BadVideoError) and self._skip_bad:
                        yield item
                    elif isinstance(item, BaseException):
                        raise item
                    else:
                        yield self._to_device(item)
                may_begin.release()
        finally:
            self._stop.set()
            may_begin.release(self.workers)
            for thread in threads:
                thread.join()

    def _work(self, begun: "_Begun", may_begin: threading.Semaphore) -> None:
        while True:
            may_begin.acquire()
            job = None if self._stop.is_set() else begun.next()
            if job is None or self._stop.is_set():
                may_begin.release()  # for the next thread to see the end
                return
            try:
                self._decode(job)
            except BaseException as error:  # whatever it is, it belongs to the thread that waits for frames
                self._put(job, error)

    def _decode(self, job: _Job) -> None:
        def on_bad(error: BadVideoError) -> None:
            self._put(job, error)

        options: Any = {"chunk": self._chunk, "threads": self.decoder_threads}
        options["on_bad"] = on_bad if self._skip_bad else None
        for item in self._read(job.episodes, options):
            if not self._put(job, item):
                return
        self._put(job, None)

    def _read(self, episodes: list[int], options: Any) -> Iterator[DeviceChunk]:
        if self._decoding_device is not None:
            yield from self._decoder.frames_on(self._decoding_device, episodes, **options)
            return
        for episode, start, frames in self._decoder.frames(episodes, **options):
            # Pictures and resized frames may have another layout in memory than decoded video.
            last = np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
            yield DeviceChunk(episode, start, torch.from_numpy(last))

    def _put(self, job: _Job, item: DeviceChunk | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                job.decoded.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def _to_device(self, item: DeviceChunk) -> DeviceChunk:
        if self._pinned is None or item.frames.device.type != "cpu":
            return item
        return item._replace(frames=self._pinned.send(item.frames))


class _PinnedBuffers:
    """Page-locked buffers in turn; one is filled again only after its copy to the device has ended."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._buffers: list[tuple[Tensor, Any] | None] = [None] * _PINNED
        self._next = 0

    def send(self, frames: Tensor) -> Tensor:
        """Start the copy to the device; the current stream waits for it, the host does not."""
        held = self._buffers[self._next]
        buffer = None
        if held is not None:
            held[1].synchronize()
            buffer = held[0]
        if buffer is None or buffer.shape[1:] != frames.shape[1:] or len(buffer) < len(frames):
            buffer = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)
        buffer[: len(frames)].copy_(frames)
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            result = buffer[: len(frames)].to(self._device, non_blocking=True)
            sent = torch.cuda.Event()
            sent.record()
        current.wait_stream(self._stream)
        # Its memory was taken on the copying stream; it may be taken anew only after the current one is done with it.
        result.record_stream(current)
        self._buffers[self._next] = (buffer, sent)
        self._next = (self._next + 1) % _PINNED
        return result
