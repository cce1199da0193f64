"""How much each action of a dataset with pseudo-labels counts in the losses of the policies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE, RECORDED, read_columns
from hlrp.data.dataset_info import DatasetInfo, read_dataset
from hlrp.data.episodes import read_episodes
from hlrp.errors import UserError


class ActionWeights:
    """How much every action of a dataset with pseudo-labels counts: a recorded one 1, others what is known of them.

    Args:
        root: Folder of the dataset.

    Raises:
        UserError: It has no such columns, or numbers that are no confidence.
    """

    def __init__(self, root: Path) -> None:
        info = read_dataset(None, root)
        _require_columns(info)
        table = read_episodes(info)
        found = read_columns(info, [ACTION_SOURCE, ACTION_CONFIDENCE], table.present)
        confidence = found[ACTION_CONFIDENCE].reshape(info.frames, -1)
        recorded = found[ACTION_SOURCE].reshape(info.frames, 1) == RECORDED
        weights = np.where(recorded, np.float32(1), confidence)
        here = weights[table.frame_indices(table.present)]
        if not ((here >= 0) & (here <= 1)).all():
            raise UserError(
                f"{ACTION_CONFIDENCE!r} holds numbers outside of 0 to 1",
                where=str(info.root / "data"),
                fix="make the dataset again with hlrp pseudo-label, or use policy.use_action_confidence=false",
            )
        self._weights, self._ends = torch.from_numpy(weights), torch.from_numpy(table.end)

    def chunks(self, index: Tensor, size: int) -> Tensor:
        """Weights of the actions from each frame ``[B]`` on, float32 ``[B, size, A]``; the last of an episode goes on.

        Raises:
            UserError: The dataset has no such frame.
        """
        at = index.reshape(-1).cpu()
        if int(at.min()) < 0 or int(at.max()) >= len(self._weights):
            raise UserError(
                f"a frame to train on has index {int(at.max())}, the dataset with the actions' confidence has "
                f"{len(self._weights)} frames",
                where="policy.confidence_dataset",
                fix="train on the dataset that hlrp pseudo-label made",
            )
        last = self._ends[torch.searchsorted(self._ends, at, right=True)] - 1
        rows = torch.minimum(at[:, None] + torch.arange(size), last[:, None])
        return self._weights[rows].to(index.device)


class JoinedWeights:
    """How much the actions of a mixture count: as `ActionWeights` says where a dataset has confidence, else 1.

    Args:
        sources: Of each dataset its `root`, its `frames`, whether its actions have `confidence`, as one's have, and the
            bounds of its own numbers in an `action`.
    """

    def __init__(self, sources: Sequence[Mapping[str, Any]]) -> None:
        self._parts = [ActionWeights(Path(s["root"])) if s["confidence"] else None for s in sources]
        self._ends = torch.tensor([s["frames"] for s in sources]).cumsum(0)
        self._bounds = [slice(*s["action"]) for s in sources]
        self._width = max(bounds.stop for bounds in self._bounds)

    def chunks(self, index: Tensor, size: int) -> Tensor:
        """As `ActionWeights.chunks`, by the frames' numbers in the mixture."""
        at = index.reshape(-1).cpu()
        source = torch.searchsorted(self._ends, at, right=True)
        weights = torch.ones(len(at), size, self._width)
        for number, part in enumerate(self._parts):
            mine = source == number
            if part is not None and bool(mine.any()):
                first = self._ends[number - 1] if number else 0
                rows = weights[mine]
                rows[..., self._bounds[number]] = part.chunks(at[mine] - first, size)
                weights[mine] = rows
        return weights.to(index.device)


def _require_columns(info: DatasetInfo) -> None:
    absent = [name for name in (ACTION_SOURCE, ACTION_CONFIDENCE) if name not in info.features]
    if absent:
        raise UserError(
            f"the dataset has no column {absent[0]!r}, by which this policy's actions are weighted",
            where=str(info.root),
            fix="use the dataset that the run began with, or policy.use_action_confidence=false",
        )
