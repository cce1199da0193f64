"""Actions for all videos out of few labelled episodes: the map from latents to actions, on several kinds of latents."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from few_labels.design import RANDOM_QUANTIZERS, SUGGESTED, Cell, Places, draw
from few_labels.videos import Floats, Videos
from hlrp.data import DatasetInfo, read_episodes
from hlrp.latents.actions import ActionDecoder, fit_actions
from hlrp.latents.step_features import Inputs
from hlrp.latents.suggestion import suggest_episodes
from hlrp.latents.table import LatentTable


class OtherVectors(LatentTable):
    """A latent table whose vectors are something else of the same windows.

    Args:
        like: The table whose windows, and which of them are valid, these are.
        values: float32 ``[N, E]``, a row for every frame of the dataset.
    """

    def __init__(self, like: LatentTable, values: Floats) -> None:
        identity = like.identity.model_copy(update={"code_seq_len": 1, "vector_dim": values.shape[1]})
        super().__init__(like.folder, like.manifest.model_copy(update={"identity": identity}))
        self._like = like
        self._values = values

    def codes(self, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Zeros: no code says anything; and which windows are valid."""
        codes, valid = self._like.codes(indices)
        return torch.zeros_like(codes[..., :1]), valid

    def vectors(self, indices: Any) -> torch.Tensor:
        """float32 ``[B, 1, 1, E]``; 0 where not valid, as in any table."""
        rows = np.asarray(indices).reshape(-1)
        values = torch.from_numpy(self._values[rows])[:, None, None]
        return values * self.codes(rows)[1][..., None, None]


def latents_of(source: str, videos: Videos, places: Places, cell: Cell) -> LatentTable:
    """The latents that an arm reads: of a quantizer, trained or random, of pixel differences or of frame pairs."""
    if source in ("grounded", "features", "own"):
        return LatentTable.open(places.own_latents(cell))
    table = LatentTable.open(places.latents)
    if source == "laq":
        return table
    if source == "random":
        return LatentTable.open(places.random_latents(cell.seed % RANDOM_QUANTIZERS))
    if source == "pixels":
        return OtherVectors(table, videos.differences)
    if source == "frames":
        every = np.arange(videos.info.frames)
        pairs = np.concatenate([videos.frames, videos.frames[videos.later(every, videos.offset)]], axis=1)
        return OtherVectors(table, pairs)
    assert source == "shuffled", source
    vectors, valid = all_vectors(table)
    rows = np.flatnonzero(valid)
    vectors[rows] = vectors[np.random.default_rng(cell.seed + 1).permutation(rows)]
    return OtherVectors(table, vectors)


def all_vectors(table: LatentTable) -> tuple[Floats, NDArray[np.bool_]]:
    """Vectors of every frame's window, ``[N, E]``, and which are valid, ``[N]``."""
    every = np.arange(len(table))
    return table.vectors(every).flatten(1).numpy().copy(), table.codes(every)[1].all(1).numpy()


@dataclass(frozen=True)
class Labels:
    """Actions of every frame: the true ones where an episode is labelled, decoded ones elsewhere.

    Args:
        actions: float32 ``[N, A]``.
        decoder: The map.
        unlabelled_r2: Of the decoded actions, by what no policy sees.
    """

    actions: Floats
    decoder: ActionDecoder
    unlabelled_r2: float

    @property
    def trust(self) -> float:
        """Mean R2 on labelled episodes that were left out."""
        return self.decoder.manifest.r2 or 0.0


def pseudo_labels(table: LatentTable, videos: Videos, labelled: list[int], inputs: Inputs = "both") -> Labels:
    """Fit the map on the labelled episodes, and decode all others with it."""
    decoder = fit_actions(table, videos.info, labelled, inputs=inputs)
    actions = videos.actions(labelled)
    others = [e for e in range(len(videos.start)) if e not in set(labelled)]
    for episode in others:
        decoded = decoder.episode(table, videos.info, episode)
        assert decoded.known.all(), f"episode {episode} is shorter than a window"
        actions[videos.start[episode] : videos.end[episode]] = decoded.actions
    rows = videos.rows(others)
    return Labels(actions, decoder, mean_r2(actions[rows], videos.actions(others)[rows]))


def mean_r2(predicted: Floats, true: Floats) -> float:
    """Mean over the dimensions that vary of 1 minus the error's share of the variance; 0 if none does."""
    variance = true.var(0)
    kept = variance > 1e-6
    if not kept.any():
        return 0.0
    return float((1 - ((predicted - true) ** 2).mean(0)[kept] / variance[kept]).mean())


def labelled_episodes(info: DatasetInfo, places: Places, cell: Cell) -> list[int]:
    """A cell's labelled episodes: drawn, or those that `hlrp fit-actions --suggest` names, k for each task."""
    if cell.seed != SUGGESTED:
        return draw(info, cell.k, cell.seed)
    tasks = len({*read_episodes(info).task})
    return sorted(s.episode for s in suggest_episodes(LatentTable.open(places.latents), info, cell.k * tasks))
