"""Latent labels of several datasets, looked up as if they were one whose frames are numbered through all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import refuse_other_span
from hlrp.errors import UserError
from hlrp.latents.column import CODES, LatentColumn, rows_of
from hlrp.latents.shards import LatentIdentity
from hlrp.latents.table import LatentTable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

    from hlrp.data.policy_sources import PolicySource


def rows_of_sources(
    sources: "Sequence[PolicySource]", table: Path | str | None, camera: str | None
) -> list[LatentTable | LatentColumn | None]:
    """The labels of each dataset of a policy's mixture, see `rows_of`.

    Args:
        sources: The datasets.
        table: Besides their own tables, one of any of them; None: there is none.
        camera: The camera that labels must be of, by its name in the mixture, where a source has it; None: any.

    Raises:
        UserError: A table is of no dataset of the mixture, labels are of another camera, or span other times.
    """
    shared = LatentTable.open(table) if table is not None else None
    rows = [rows_of(source.table, source.info, shared) for source in sources]
    if shared is not None and shared not in rows:
        shared.check(dataset=sources[0].info)
    for source, row in zip(sources, rows, strict=True):
        if row is not None and camera in source.features:
            row.check(camera=source.own_name(camera))
    refuse_other_spans(rows, [source.info for source in sources])
    return rows


def refuse_other_spans(rows: Sequence[LatentTable | LatentColumn | None], infos: Sequence[DatasetInfo]) -> None:
    """See that codes of several datasets span like times, whose offset is a whole number of each one's frames.

    Args:
        rows: Labels of each dataset; None: it has none.
        infos: The datasets.

    Raises:
        UserError: The longest time is more than half as long again as the shortest.
    """
    pairs = zip(rows, infos, strict=True)
    spans = sorted((row.identity.offset_frames / info.fps, info.repo_id) for row, info in pairs if row is not None)
    if spans:
        (shortest, first), (longest, last) = spans[0], spans[-1]
        refuse_other_span(
            longest,
            shortest,
            f"the codes of {first} are of frames {shortest:.3g} s apart, those of {last} of frames {longest:.3g} s "
            "apart",
            where="data.sources, latents",
            fix="use datasets of which a whole number of frames lasts as long as the offset of the quantizer",
        )


class JoinedRows:
    """Tables and columns of a mixture's datasets; looked up as in a `LatentTable`.

    Args:
        rows: Of each dataset; None: it has no labels, and no pair of its frames is valid.
        frames: Frames of each dataset.

    Raises:
        UserError: None has labels, or they mean different things.
    """

    def __init__(self, rows: Sequence[LatentTable | LatentColumn | None], frames: Sequence[int]) -> None:
        labelled = [row for row in rows if row is not None]
        if not labelled:
            raise UserError(
                f"no dataset of the run has labels: there is no table, and none has a column {CODES!r}",
                where="latents, data.sources",
                fix="give each labelled source its table, or train hlrp_action_expert_direct, which needs none",
            )
        self._rows, self._ends = tuple(rows), np.cumsum(frames)
        self.identity: LatentIdentity = labelled[0].identity
        for row in labelled:
            row.check(**self.identity.codes().model_dump())

    def check(self, **asked: object) -> None:
        """As `LatentTable.check`, of each."""
        for row in self._rows:
            if row is not None:
                row.check(**asked)  # type: ignore[arg-type]

    def codes(self, indices: "ArrayLike") -> "tuple[Tensor, Tensor]":
        """As `LatentTable.codes`, by the frames' numbers in the mixture."""
        import torch

        wanted = np.asarray(indices, np.int64).reshape(-1)
        pairs = self.identity.num_frames - 1
        codes = torch.zeros(len(wanted), pairs, self.identity.code_seq_len, dtype=torch.int64)
        valid = torch.zeros(len(wanted), pairs, dtype=torch.bool)
        for row, at, own in self._parts(wanted):
            codes[at], valid[at] = row.codes(own)
        return codes, valid

    def vectors(self, indices: "ArrayLike") -> "Tensor":
        """As `LatentTable.vectors`, by the frames' numbers in the mixture."""
        import torch

        wanted = np.asarray(indices, np.int64).reshape(-1)
        width = self.identity.vector_dim or 0
        shape = (len(wanted), self.identity.num_frames - 1, self.identity.code_seq_len, width)
        vectors = torch.zeros(shape)
        for row, at, own in self._parts(wanted):
            vectors[at] = row.vectors(own)
        return vectors

    def _parts(
        self, wanted: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    ) -> "list[tuple[LatentTable | LatentColumn, Tensor, np.ndarray[tuple[int], np.dtype[np.int64]]]]":
        """Each labelled dataset that is asked for, at which places, and for which of its own frames."""
        import torch

        source = np.searchsorted(self._ends, wanted, side="right")
        parts = []
        for number, row in enumerate(self._rows):
            at = np.flatnonzero(source == number)
            if row is not None and len(at):
                first = self._ends[number - 1] if number else 0
                parts.append((row, torch.from_numpy(at), wanted[at] - first))
        return parts
