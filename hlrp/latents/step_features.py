"""What an action decoder reads for a step: the latents of the windows that begin around it, as one row of numbers.

Shapes: n steps, O offsets, T frames of a window, J = T - 1 transitions of a window, S code positions, D width of a
vector, K codes, E = S * D or S * K numbers of a transition, F features.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from hlrp.errors import UserError
from hlrp.latents.table import LatentTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

Inputs = Literal["both", "vectors", "codes"]
"""What is read: continuous latents, codes, or both."""

_CONSTANT = 1e-6


class Transitions(NamedTuple):
    """Latents of windows, one row each.

    Args:
        values: float32 ``[n, J, E]``: vectors, one-hot codes, or both in this order.
        valid: bool ``[n, J]``.
    """

    values: "NDArray[np.float32]"
    valid: "NDArray[np.bool_]"


def check_inputs(latents: LatentTable, inputs: Inputs) -> None:
    """Check that a table has what is to be read.

    Raises:
        UserError: It has no vectors.
    """
    if inputs != "codes" and latents.identity.vector_dim is None:
        raise UserError(
            "the latent table has no continuous latents",
            where=str(latents.folder),
            fix="label with hlrp precompute-latents --vectors, or read the codes: --inputs codes",
        )


def read_transitions(latents: LatentTable, first: int, end: int, inputs: Inputs) -> Transitions:
    """The latents of the windows that begin at the frames from ``first`` up to ``end``, by global index."""
    rows = np.arange(first, end)
    codes, valid = latents.codes(rows)
    parts = [latents.vectors(rows).flatten(2).numpy()] if inputs != "codes" else []
    if inputs != "vectors":
        parts.append(one_hot(codes.numpy(), latents.identity.codebook_size))
    return Transitions(np.concatenate(parts, axis=2), valid.numpy())


def one_hot(codes: "NDArray[np.int64]", codebook_size: int) -> "NDArray[np.float32]":
    """Codes ``[n, J, S]`` as numbers ``[n, J, S * K]``."""
    hot = codes[..., None] == np.arange(codebook_size)
    return hot.reshape(*codes.shape[:2], -1).astype(np.float32)


def default_offsets(offset_frames: int) -> list[int]:
    """Two windows before the step, the one at it, and the one after it: they join end to end."""
    return [-2 * offset_frames, -offset_frames, 0, offset_frames]


class StepFeatures:
    """Rows of features for steps, on the scale of all videos that a table labels.

    A window that lies outside of its episode, or was not labelled, counts as the mean, and one number says so.

    Args:
        offsets: Frames around a step at which windows begin.
        mean: float32 ``[J, E]``, over all videos.
        scale: float32 ``[J, E]``, their spread; infinite for what never changes.
    """

    def __init__(self, offsets: Sequence[int], mean: "NDArray[np.float32]", scale: "NDArray[np.float32]") -> None:
        self.offsets, self.mean, self.scale = tuple(offsets), mean, scale

    @classmethod
    def of_table(cls, latents: LatentTable, inputs: Inputs, offsets: Sequence[int]) -> "StepFeatures":
        """The scale of all latents of a table: no action is needed for it."""
        total: NDArray[np.float64] | None = None
        for part in _parts(latents, inputs):
            values = np.where(part.valid[..., None], part.values, 0).astype(np.float64)
            sums = np.stack(
                [values.sum(0), (values**2).sum(0), np.broadcast_to(part.valid.sum(0)[:, None], values[0].shape)]
            )
            total = sums if total is None else total + sums
        assert total is not None, "a table has rows"
        count = total[2].clip(1)
        mean = total[0] / count
        spread = np.sqrt((total[1] / count - mean**2).clip(0))
        scale = np.where(spread > _CONSTANT, spread, np.inf)
        return cls(offsets, mean.astype(np.float32), scale.astype(np.float32))

    @property
    def width(self) -> int:
        """Features F of a step."""
        return len(self.offsets) * (self.mean.size + len(self.mean))

    def rows(self, episode: Transitions) -> "tuple[NDArray[np.float32], NDArray[np.float64]]":
        """Features of all steps of an episode.

        Args:
            episode: The windows that begin at each of its frames, in order.

        Returns:
            float32 ``[n, F]``, and the share ``[n]`` of the transitions that could be read: 0 where nothing is known.
        """
        count = len(episode.valid)
        scaled = np.where(episode.valid[..., None], (episode.values - self.mean) / self.scale, 0)
        parts, missing = [], []
        for offset in self.offsets:
            at = np.arange(count) + offset
            inside = (at >= 0) & (at < count)
            row = at.clip(0, count - 1)
            parts.append(np.where(inside[:, None], scaled[row].reshape(count, -1), 0))
            missing.append(~(episode.valid[row] & inside[:, None]))
        absent = np.concatenate(missing, axis=1)
        rows = np.concatenate([*parts, absent], axis=1).astype(np.float32)
        return rows, 1 - absent.mean(1)


def _parts(latents: LatentTable, inputs: Inputs) -> Iterator[Transitions]:
    """All rows of a table, a shard at a time."""
    for entry in latents.manifest.shards:
        yield read_transitions(latents, entry.range.first_row, entry.range.end_row, inputs)
