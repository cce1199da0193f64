"""The tier `trust`: draws that differ in what users differ in, not in labelled episodes alone, and the map's scores.

Shapes: N frames of the dataset.
"""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from few_labels.design import (
    LATE_FRAMES,
    QUANTIZER_LATENTS,
    QUANTIZER_STEPS,
    QUANTIZER_VIDEO,
    TRUST_DRAWS,
    QuantizerVideo,
)
from few_labels.records import write_csv
from few_labels.videos import Ints, Videos
from hlrp.latents.decoder_manifest import DecoderManifest
from hlrp.latents.step_features import Inputs
from hlrp.latents.table import LatentTable


@dataclass(frozen=True)
class Situation:
    """What a draw's user has.

    Args:
        seed: Of the quantizer's weights and samples.
        steps: Updates of the quantizer.
        video: What it learned from: all episodes, the labelled ones alone, or other tasks.
        positions: Its codes for a pair of frames.
        codes: Its codebook's size.
        inputs: What the map reads: codes alone, or vectors beside them.
        late: Frames by which the actions of each labelled episode are late, at most: of each another number.
    """

    seed: int
    steps: int
    video: QuantizerVideo
    positions: int
    codes: int
    inputs: Inputs
    late: int

    @classmethod
    def of(cls, seed: int) -> "Situation":
        """A draw's: twelve that follow each other have all levels, in random combinations."""
        block, place = divmod(seed, TRUST_DRAWS)
        at = [int(np.random.default_rng([block, factor]).permutation(TRUST_DRAWS)[place]) for factor in range(4)]
        positions, codes, inputs = QUANTIZER_LATENTS[at[2]]
        return cls(seed, QUANTIZER_STEPS[at[0]], QUANTIZER_VIDEO[at[1]], positions, codes, inputs, LATE_FRAMES[at[3]])

    def training(self, labelled: list[int]) -> list[str]:
        """Arguments of `hlrp train`, beside the dataset and `demo/laq`; no episode is held out."""
        shape = [f"model.code_seq_len={self.positions}", f"model.codebook_size={self.codes}"]
        more = [*shape, "trainer.eval_split=0", "trainer.eval_steps=0"]
        some = ["--episodes", ",".join(map(str, labelled))] if self.video == "labelled" else []
        return ["--steps", str(self.steps), "--seed", str(self.seed), *some, *more]

    def seen(self, videos: Videos, labelled: list[int]) -> Ints:
        """The frame ``[N]`` beside each action: of labelled episodes a later one, where actions are late."""
        rows = np.arange(videos.info.frames)
        random = np.random.default_rng([self.seed, 4])
        for episode in labelled:
            mine = videos.rows([episode])
            rows[mine] = videos.later(mine, int(random.integers(self.late, endpoint=True)))
        return rows


class OtherRows(LatentTable):
    """A latent table whose rows are those of other frames.

    Args:
        like: The table.
        rows: int64 ``[N]``: whose latents each frame has.
    """

    def __init__(self, like: LatentTable, rows: Ints) -> None:
        super().__init__(like.folder, like.manifest)
        self._source = rows

    def codes(self, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """As any table's, of the other frames."""
        return super().codes(self._source[np.asarray(indices).reshape(-1)])

    def vectors(self, indices: Any) -> torch.Tensor:
        """As any table's, of the other frames."""
        return super().vectors(self._source[np.asarray(indices).reshape(-1)])


@dataclass(frozen=True)
class Scores:
    """What a draw's map says of itself, without any action that no policy sees.

    Args:
        seed: The draw.
        k: Labelled episodes a task.
        below: Dimensions below the floor.
        r2: Held-out R2, mean of the dimensions: the study's trust.
        lowest: Of the worst dimension, which decides whether `hlrp pseudo-label` refuses.
        lowest_task: Of the task with the lowest mean over dimensions.
        lowest_entry: Of the worst pair of a task and a dimension.
    """

    seed: int
    k: int
    below: int
    r2: float
    lowest: float
    lowest_task: float
    lowest_entry: float

    @classmethod
    def of(cls, seed: int, k: int, manifest: DecoderManifest) -> "Scores":
        """A map's; a dimension that never changes has no score."""
        scored = [d for d in manifest.dimensions if d.r2 is not None]
        entries = np.array([list(d.by_task.values()) for d in scored], float)
        lowest = min(d.r2 for d in scored if d.r2 is not None)
        values = (manifest.r2 or 0.0, lowest, entries.mean(0).min(), entries.min())
        return cls(seed, k, len(manifest.below_floor), *(round(float(v), 3) for v in values))


def scores_path(rows: Path) -> Path:
    """Beside the CSV of the study's rows."""
    return rows.with_name(f"{rows.stem}_trust.csv")


def read_scores(path: Path) -> dict[tuple[int, int], Scores]:
    """By draw and k; none where there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf8") as file:
        each = [
            Scores(**{f.name: (float if f.type is float else int)(float(row[f.name])) for f in fields(Scores)})
            for row in csv.DictReader(file)
        ]
    return {(scores.seed, scores.k): scores for scores in each}


def keep_scores(path: Path, new: Scores) -> None:
    """Add a draw's, in place of earlier ones of its number."""
    every = read_scores(path) | {(new.seed, new.k): new}
    write_csv(path, [field.name for field in fields(Scores)], [asdict(every[key]) for key in sorted(every)])
