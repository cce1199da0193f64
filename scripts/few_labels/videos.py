"""What the study sees of videos without actions: principal components of frames and of differences between frames.

Shapes: N frames of the dataset, E episodes, P numbers of a thumbnail, C components.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlrp.data import DatasetInfo, FrameStore, read_dataset, read_episodes
from hlrp.data.columns import read_column

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

COMPONENTS = 120
_SHRINK = 2
_SAMPLE = 1500
_BLOCK = 1024
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Basis:
    """Principal components of pictures.

    Args:
        mean: float32 ``[P]``.
        axes: float32 ``[P, C]``, each divided by the spread along it: projections have unit variance.
    """

    mean: Floats
    axes: Floats

    def project(self, pictures: Floats) -> Floats:
        """Thumbnails ``[n, P]`` to components ``[n, C]``."""
        projected: Floats = (pictures - self.mean) @ self.axes
        return projected


@dataclass(frozen=True)
class Videos:
    """All videos of a dataset as numbers; neither an action nor a state was read for them.

    Args:
        info: The dataset.
        episode: Episode of each frame, ``[N]``.
        start: First frame of each episode, ``[E]``.
        end: Frame after the last of each episode, ``[E]``.
        task: Task sentence of each episode.
        basis: Of the frames.
        frames: Components of each frame, float32 ``[N, C]``.
        differences: Components of the frame ``offset`` later minus this one, float32 ``[N, C]``.
        offset: Frames between the two.
    """

    info: DatasetInfo
    episode: Ints
    start: Ints
    end: Ints
    task: list[str]
    basis: Basis
    frames: Floats
    differences: Floats
    offset: int

    @property
    def tasks(self) -> list[str]:
        """Task sentences, sorted."""
        return sorted(set(self.task))

    def rows(self, episodes: list[int]) -> Ints:
        """Frames of some episodes, ascending."""
        return np.concatenate([np.arange(self.start[e], self.end[e]) for e in sorted(episodes)])

    def later(self, rows: Ints, steps: int) -> Ints:
        """The frame ``steps`` after each (before it if negative), at most the end of its episode."""
        episode = self.episode[rows]
        return np.clip(rows + steps, self.start[episode], self.end[episode] - 1)

    def actions(self, episodes: list[int]) -> Floats:
        """float32 ``[N, A]``, NaN in all episodes but those."""
        values = read_column(self.info, "action", episodes)
        hidden = np.full_like(values, np.nan)
        rows = self.rows(episodes)
        hidden[rows] = values[rows]
        return hidden


def thumbnails(frames: NDArray[np.uint8]) -> Floats:
    """Frames ``[n, 3, S, S]`` as means of squares of two pixels a side, in [0, 1], ``[n, P]``."""
    n, channels, height, width = frames.shape
    shape = (n, channels, height // _SHRINK, _SHRINK, width // _SHRINK, _SHRINK)
    small: Floats = frames.reshape(shape).mean((3, 5), dtype=np.float32).reshape(n, -1) / 255
    return small


def read_videos(root: Path, offset: int, cache: Path) -> Videos:
    """Read a dataset's videos.

    Args:
        root: The dataset.
        offset: Frames between the two of a difference.
        cache: File that keeps the components.
    """
    info = read_dataset(None, root)
    table = read_episodes(info)
    if not cache.is_file():
        store = FrameStore(table, info.cameras[0])
        store.prepare()
        _write_components(store, table.start, table.end, offset, cache)
    found = np.load(cache)
    return Videos(
        info=info,
        episode=table.episode_of(np.arange(info.frames)),
        start=table.start,
        end=table.end,
        task=table.task,
        basis=Basis(found["mean"], found["axes"]),
        frames=found["frames"],
        differences=found["differences"],
        offset=offset,
    )


def _write_components(store: FrameStore, start: Ints, end: Ints, offset: int, cache: Path) -> None:
    count = int(end[-1])
    blocks = np.array_split(np.arange(count), -(-count // _BLOCK))
    small = np.concatenate([thumbnails(store.read(rows)) for rows in blocks])
    later = np.minimum(np.arange(count) + offset, np.repeat(end, end - start) - 1)
    sample = np.linspace(0, count - 1, min(_SAMPLE, count)).astype(np.int64)
    frames = _basis(small[sample])
    moved = _basis(small[later[sample]] - small[sample])
    differences = np.concatenate([moved.project(small[later[rows]] - small[rows]) for rows in blocks])
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial.npz")
    np.savez(partial, mean=frames.mean, axes=frames.axes, frames=frames.project(small), differences=differences)
    partial.replace(cache)


def _basis(pictures: Floats) -> Basis:
    mean = pictures.mean(0)
    centred = pictures - mean
    # Of fewer pictures than pixels the smaller matrix has the same components.
    values, vectors = np.linalg.eigh(centred @ centred.T / len(centred))
    varying = int((values > _CONSTANT * values[-1]).sum())
    kept = slice(-1, -min(COMPONENTS, varying) - 1, -1)
    spread = np.sqrt(values[kept])
    axes = centred.T @ vectors[:, kept] / (spread * np.sqrt(len(centred)))
    return Basis(mean, np.ascontiguousarray(axes / spread, np.float32))
