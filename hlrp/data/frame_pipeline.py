"""Decoding ahead in threads, onto a device: decoding, transfer and what is done with the frames overlap."""

import math
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlrp.data.decode import DeviceChunk, SequentialDecoder, Span
from hlrp.data.images import BadVideoError
from hlrp.ranks import own_cores

_JOB_FRAMES = 512
"""Frames of a job, about: opening a video and finding a place in it costs as much as some tens of small frames."""

_CHUNK_BYTES = 8 << 20
"""Frames that are handed over together, about."""

_AHEAD_BYTES = 64 << 20
"""Frames that a thread has decoded and nobody has taken yet, about."""

_WASTE = 0.25
"""Share of a job that may be decoded in vain, to come to its first frame from the keyframe before."""

_PINNED = 3


class _Job:
    """Neighbouring parts of episodes that one thread decodes, and what it has decoded of them."""

    def __init__(self, spans: list[Span], ahead: int) -> None:
        self.spans = spans
        self.decoded: queue.Queue[DeviceChunk | BaseException | None] = queue.Queue(ahead)


class _Begun:
    """Jobs that a thread has begun, in the order of the episodes; each is made when it begins."""

    def __init__(self, groups: Sequence[list[Span]], ahead: int) -> None:
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
    Long episodes are shared by threads, where keyframes are near to one another; else the decoder's own threads are.
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
        self._chunk = max(1, min(chunk, _CHUNK_BYTES // frame_bytes))
        self._skip_bad = skip_bad
        self._ahead = max(2, _AHEAD_BYTES // (self._chunk * frame_bytes))
        self._groups = [*self._cut(episodes)]
        self.workers = self._useful(workers or own_cores(), asked=bool(workers))
        self.decoder_threads = 1 if workers else max(1, own_cores() // self.workers)
        there = device.type == "cuda" and decoder.is_video and decoder.table.info.video_backend == "torchcodec"
        self._decoding_device = str(device) if there else None
        self._stop = threading.Event()
        self._pinned = _PinnedBuffers(device) if device.type == "cuda" else None

    @property
    def source(self) -> str:
        """What decodes the frames, with versions."""
        return self._decoder.source("cpu" if self._decoding_device is None else self._device.type)

    def _cut(self, episodes: Sequence[int]) -> Iterator[list[Span]]:
        """The jobs: neighbouring short episodes, or parts of long ones, that can wait in memory as a whole."""
        lengths = self._decoder.table.lengths
        most = max(1, min(self._ahead, _JOB_FRAMES // self._chunk)) * self._chunk
        long = next((episode for episode in episodes if lengths[episode] > most), None)
        shared = long is not None and self._decoder.keyframe_interval(long) <= _WASTE * most
        group, frames = list[Span](), 0
        for episode in episodes:
            length = int(lengths[episode])
            # In whole chunks, and as equal as these allow.
            parts = math.ceil(length / most) if shared else 1
            step = math.ceil(length / self._chunk / max(1, parts)) * self._chunk
            for start in range(0, length, max(1, step)):
                span = Span(episode, start, min(length, start + step))
                if group and frames + span.stop - start > min(most, _JOB_FRAMES):
                    yield group
                    group, frames = [], 0
                group.append(span)
                frames += span.stop - start
        if group:
            yield group

    def _useful(self, workers: int, *, asked: bool) -> int:
        """Of so many threads, those that find work."""
        workers = max(1, min(workers, len(self._groups)))
        longest = max((sum(stop - start for _, start, stop in group) for group in self._groups), default=0)
        waiting = self._ahead * self._chunk
        if asked or longest <= waiting:
            return workers
        # Of a job that is not yet taken a part waits, and then its thread does: others gain nothing.
        return min(workers, math.ceil(longest / (longest - waiting)))

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
        spoiled: int | None = None
        try:
            for _ in self._groups:
                job = begun.jobs.get()
                while (item := job.decoded.get()) is not None:
                    if isinstance(item, BaseException) and not (isinstance(item, BadVideoError) and self._skip_bad):
                        raise item
                    if item.episode == spoiled:
                        continue  # another part of it
                    if isinstance(item, BadVideoError):
                        spoiled = item.episode
                        yield item
                    else:
                        yield self._to_device(item)
                may_begin.release()
        finally:
            self._stop.set()
            may_begin.release(self.workers)
            for thread in threads:
                thread.join()

    def _work(self, begun: "_Begun", may_begin: threading.Semaphore) -> None:
        job: _Job | None = None

        def spans() -> Iterator[Span]:
            nonlocal job
            while (job := self._begin(begun, may_begin)) is not None:
                yield from job.spans
                self._put(job, None)

        def on_bad(error: BadVideoError) -> None:
            self._put(job, error)

        options: Any = {"chunk": self._chunk, "threads": self.decoder_threads}
        options["on_bad"] = on_bad if self._skip_bad else None
        try:
            for item in self._read(spans(), options):
                if not self._put(job, item):
                    return
        except BaseException as error:  # whatever it is, it belongs to the thread that waits for frames
            self._put(job, error)

    def _begin(self, begun: "_Begun", may_begin: threading.Semaphore) -> _Job | None:
        may_begin.acquire()
        job = None if self._stop.is_set() else begun.next()
        if job is None or self._stop.is_set():
            may_begin.release()  # for the next thread to see the end
            return None
        return job

    def _read(self, spans: Iterable[Span], options: Any) -> Iterator[DeviceChunk]:
        if self._decoding_device is not None:
            yield from self._decoder.frames_on(self._decoding_device, spans, **options)
            return
        for episode, start, frames in self._decoder.frames(spans, **options):
            # Pictures and resized frames may have another layout in memory than decoded video.
            last = np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
            yield DeviceChunk(episode, start, torch.from_numpy(last))

    def _put(self, job: _Job | None, item: DeviceChunk | BaseException | None) -> bool:
        assert job is not None, "nothing is decoded outside of a job"
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
        sent = self._stream.record_event()
        current.wait_stream(self._stream)
        # Its memory was taken on the copying stream; it may be taken anew only after the current one is done with it.
        result.record_stream(current)
        self._buffers[self._next] = (buffer, sent)
        self._next = (self._next + 1) % _PINNED
        return result
