"""How much the picture changes: one number a frame, computed once and kept beside the frame store."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hlrp.data.decode import FrameChunk, SequentialDecoder
from hlrp.data.episodes import Episodes
from hlrp.data.frame_pipeline import FramePipeline
from hlrp.data.frame_storage import locked
from hlrp.data.frame_store import FrameStore
from hlrp.data.images import BadVideoError
from hlrp.files import new_file

_log = logging.getLogger("hlrp.data")
_VERSION = 1
_BLOCKS = 32
_LUMA = (0.299, 0.587, 0.114)
_CHUNK = 64
_SAVE_FRAMES = 50_000


def grey_blocks(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Small grey pictures: means of square blocks, 32 or a few more along the shorter side.

    What single pixels do (noise, compression) averages out; what has the size of a gripper stays. Rows and columns that
    fill no block are left out.

    Args:
        frames: uint8 `[n, H, W, 3]`.

    Returns:
        float32 `[n, h, w]` in `[0, 255]`, luma of BT.601.
    """
    edge = max(1, min(frames.shape[1:3]) // _BLOCKS)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    blocks = torch.nn.functional.avg_pool2d(pixels, edge)
    weights = torch.tensor(_LUMA).view(1, 3, 1, 1)
    grey: NDArray[np.float32] = (blocks * weights).sum(1).numpy()
    return grey


class EpisodeMotion:
    """The motion of one episode, from its frames in order; holds as many small pictures as the two lie apart.

    Args:
        offset: Frames between the two pictures, > 0.
    """

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._held: NDArray[np.float32] | None = None
        self._found: list[NDArray[np.float32]] = []
        self._brightness: list[NDArray[np.float32]] = []

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Take the next frames, uint8 `[n, H, W, 3]`."""
        grey = grey_blocks(frames)
        self._brightness.append(grey.mean((1, 2)))
        grey = grey if self._held is None else np.concatenate([self._held, grey])
        if len(grey) > self._offset:
            self._found.append(_difference(grey[: -self._offset], grey[self._offset :]))
        self._held = grey[-self._offset :]

    def brightness(self) -> NDArray[np.float32]:
        """Mean of every frame so far, in grey levels."""
        return np.concatenate(self._brightness)

    def scores(self, length: int) -> NDArray[np.float32]:
        """Motion at every frame, float32 `[length]`, in grey levels.

        At frames whose second picture would lie past the end it is that of the last pair. In an episode that is too
        short for one pair it is that of its first and last frame, everywhere.
        """
        if not self._found:
            assert self._held is not None, "an episode has frames"
            return np.full(length, _difference(self._held[:1], self._held[-1:])[0], np.float32)
        found = np.concatenate(self._found)
        return np.pad(found, (0, length - len(found)), mode="edge")


def _difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    means: NDArray[np.float32] = np.abs(second - first).mean((1, 2), dtype=np.float64).astype(np.float32)
    return means


class MotionScores:
    """Motion and brightness of one camera at one size, for all frames of a dataset.

    Kept as `<cache>/frames/<key>/motion-v1-<frames apart>.npy`, in the folder of the frame store whose frames it is
    computed from: other data, another size or decoder is another folder. Frames come from that store where they are in
    it, and are decoded otherwise, which gives the same numbers.

    Args:
        table: Episode table of the dataset.
        camera: Feature to read.
        size: Height and width, or one number for a square; none: as recorded.
        offset: Frames between the two pictures.
        root: Where frame stores live; none: in the platform's cache folder.
    """

    def __init__(
        self,
        table: Episodes,
        camera: str,
        size: int | tuple[int, int] | None,
        offset: int,
        *,
        root: Path | None = None,
    ) -> None:
        self._table, self._camera, self._size, self._offset = table, camera, size, offset
        self._store = FrameStore(table, camera, size, where="disk", root=root)
        assert self._store.folder is not None
        self._folder = self._store.folder
        self.path = self._folder / f"motion-v{_VERSION}-{offset}.npy"

    def missing(self, episodes: Sequence[int]) -> list[int]:
        """Episodes among ``episodes`` that are not computed yet, ascending."""
        return self._missing(self._load(), episodes)

    def read(
        self,
        episodes: Sequence[int],
        *,
        announce: Callable[[str], None] = _log.warning,
        progress: Callable[[int, int], None] | None = None,
        on_bad: Callable[[BadVideoError], None] | None = None,
    ) -> NDArray[np.float32]:
        """What the pictures of some episodes show; what is missing is computed, saved every now and then.

        Args:
            episodes: Which.
            announce: Given a sentence before frames are read, if any are.
            progress: Called meanwhile as (frames done, frames to do).
            on_bad: Called with an episode that cannot be decoded, which stays NaN; none: the error is raised.

        Returns:
            float32 `[2, frames]` by global frame index, in grey levels: motion, and the mean of the picture. NaN
            outside ``episodes``.

        Raises:
            BadVideoError: Naming file and episode, when ``on_bad`` is none.
            UserError: The cache cannot be written.
        """
        if self.missing(episodes):
            with locked(self._folder, announce):
                self._compute(episodes, announce, progress, on_bad)
        scores = self._load()
        chosen = np.full_like(scores, np.nan)
        rows = self._table.frame_indices(list(episodes))
        chosen[:, rows] = scores[:, rows]
        return chosen

    def _load(self) -> NDArray[np.float32]:
        shape = (2, self._table.info.frames)
        try:
            found = np.load(self.path, allow_pickle=False)
            if found.dtype == np.float32 and found.shape == shape:
                return np.asarray(found)
        except (OSError, ValueError, EOFError):
            pass  # absent, or damaged: it is computed anew
        return np.full(shape, np.nan, np.float32)

    def _missing(self, scores: NDArray[np.float32], episodes: Sequence[int]) -> list[int]:
        begins, ends = self._table.start, self._table.end
        return [e for e in sorted(set(episodes)) if np.isnan(scores[:, begins[e] : ends[e]]).any()]

    def _compute(
        self,
        episodes: Sequence[int],
        announce: Callable[[str], None],
        progress: Callable[[int, int], None] | None,
        on_bad: Callable[[BadVideoError], None] | None,
    ) -> None:
        scores = self._load()
        missing = self._missing(scores, episodes)
        if not missing:
            return  # another process made them while this one waited for the lock
        total, done, unsaved = int(sum(self._table.lengths[e] for e in missing)), 0, 0
        announce(f"measuring motion in {total:,} frames of {self._table.info.repo_id} {self._camera}")
        motion: EpisodeMotion | None = None
        for item in self._frames(missing, skip_bad=on_bad is not None):
            if isinstance(item, BadVideoError):
                assert on_bad is not None
                on_bad(item)
                continue
            motion = EpisodeMotion(self._offset) if item.start == 0 or motion is None else motion
            motion.add(item.frames)
            done, unsaved = done + len(item.frames), unsaved + len(item.frames)
            first, length = int(self._table.start[item.episode]), int(self._table.lengths[item.episode])
            if item.start + len(item.frames) == length:
                scores[:, first : first + length] = motion.scores(length), motion.brightness()
                if unsaved >= _SAVE_FRAMES:
                    self._save(scores)
                    unsaved = 0
            if progress:
                progress(done, total)
        self._save(scores)

    def _save(self, scores: NDArray[np.float32]) -> None:
        with new_file(self.path) as temporary, temporary.open("wb") as file:
            np.save(file, scores)

    def _frames(self, episodes: list[int], *, skip_bad: bool) -> Iterator[FrameChunk | BadVideoError]:
        """Frames in order, with the channels last."""
        if not self._store.missing(episodes):
            for episode in episodes:
                first, end = int(self._table.start[episode]), int(self._table.end[episode])
                for start in range(first, end, _CHUNK):
                    frames = self._store.read(np.arange(start, min(start + _CHUNK, end)))
                    yield FrameChunk(episode, start - first, frames.transpose(0, 2, 3, 1))
            return
        decoder = SequentialDecoder(self._table, self._camera, self._size)
        pipeline = FramePipeline(decoder, episodes, torch.device("cpu"), chunk=_CHUNK, skip_bad=skip_bad)
        for item in pipeline:
            yield item if isinstance(item, BadVideoError) else FrameChunk(item.episode, item.start, item.frames.numpy())
