"""Batches of windows from a stream of frames: each frame is kept until the last window that needs it."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hlrp.data.frame_pipeline import DeviceChunk


class WindowBatcher:
    """Gathers windows of T frames, ``offset`` apart, from the chunks of one episode after another.

    Holds ``(T-1) * offset`` frames and one batch, whatever the length of an episode. Past the end of the episode its
    last frame is repeated; rows without any valid pair get no window.

    Args:
        num_frames: Frames T of a window.
        offset: Frames between neighbouring frames of a window.
        batch_size: Windows of a full batch.
        chunk: Most frames of a chunk.
    """

    def __init__(self, num_frames: int, offset: int, batch_size: int, chunk: int) -> None:
        self._steps = torch.arange(num_frames) * offset
        self._offset, self._reach = offset, offset * (num_frames - 1)
        self._batch_size, self._capacity = batch_size, self._reach + chunk
        self._ring: Tensor | None = None
        self._batch: Tensor | None = None
        self._rows: list[NDArray[np.int64]] = []
        self._filled = self._next = 0

    def add(self, chunk: DeviceChunk, first_row: int, length: int) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Take the next frames of an episode.

        Args:
            chunk: The frames; a start of 0 begins a new episode.
            first_row: Global index of the episode's first frame.
            length: Frames of the episode.

        Yields:
            Full batches: global indices of the windows' first frames ``[n]``, and windows uint8 ``[n, T, C, H, W]``,
            channels last in memory, which hold until the next batch is asked for.
        """
        if self._ring is None or self._batch is None:
            shape = chunk.frames.shape[1:]
            self._ring = chunk.frames.new_empty((self._capacity, *shape))
            self._batch = chunk.frames.new_empty((self._batch_size, len(self._steps), *shape))
        if chunk.start == 0:
            self._next = 0
        end = chunk.start + len(chunk.frames)
        self._store(self._ring, chunk)
        ready = length - self._offset if end == length else min(end - self._reach, length - self._offset)
        while self._next < ready:
            count = min(ready - self._next, self._batch_size - self._filled)
            rows = torch.arange(self._next, self._next + count)
            self._gather(self._ring, self._batch, rows, length)
            self._rows.append(rows.numpy() + first_row)
            self._filled += count
            self._next += count
            if self._filled == self._batch_size:
                yield from self.flush()

    def flush(self) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Give what has gathered, if anything."""
        if self._filled and self._batch is not None:
            rows, count = np.concatenate(self._rows), self._filled
            self._rows, self._filled = [], 0
            yield rows, self._batch[:count].permute(0, 1, 4, 2, 3)

    def _store(self, ring: Tensor, chunk: DeviceChunk) -> None:
        at, frames = chunk.start % self._capacity, chunk.frames
        fits = min(len(frames), self._capacity - at)
        ring[at : at + fits] = frames[:fits]
        if fits < len(frames):
            ring[: len(frames) - fits] = frames[fits:]

    def _gather(self, ring: Tensor, batch: Tensor, rows: Tensor, length: int) -> None:
        slots = (rows[:, None] + self._steps).clamp_max(length - 1) % self._capacity
        into = batch[self._filled : self._filled + len(rows)].flatten(0, 1)
        torch.index_select(ring, 0, slots.flatten().to(ring.device, non_blocking=True), out=into)
