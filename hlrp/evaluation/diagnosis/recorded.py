"""The data of a policy under the names that the policy knows: rows, numbers and pictures of recorded episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hlrp.data import read_episodes
from hlrp.data.columns import ACTION_SOURCE, RECORDED, read_column, read_columns
from hlrp.data.dataset_info import DatasetInfo, feature_names
from hlrp.data.episodes import Episodes
from hlrp.data.filtering import is_depth
from hlrp.data.readers import DirectReader
from hlrp.evaluation.environment_plan import recorded_episodes

ACTION, STATE = "action", "observation.state"


@dataclass(frozen=True)
class Row:
    """A recorded episode: its number, task, reset seed (None: not said), and the global indices of its frames."""

    episode: int
    task: str
    seed: int | None
    start: int
    end: int

    @property
    def length(self) -> int:
        """Its frames."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Recorded:
    """A dataset as a policy was trained on it.

    Args:
        info: The dataset.
        table: Its episodes.
        rename: The dataset's names of features to the policy's, where they differ.
        rows: The episodes that are looked at closely.
    """

    info: DatasetInfo
    table: Episodes
    rename: Mapping[str, str]
    rows: list[Row]

    @classmethod
    def open(
        cls,
        info: DatasetInfo,
        rename: Mapping[str, str],
        *,
        episodes: int,
        tasks: Sequence[str],
        trained: Sequence[int] | None,
    ) -> "Recorded":
        """Open a dataset and choose episodes of it.

        Args:
            info: The dataset.
            rename: As above.
            episodes: How many to look at.
            tasks: Of the environment, which are taken in turn; without reset seeds they have no say.
            trained: The episodes that were trained on; None: all.

        Raises:
            UserError: It cannot be read.
        """
        table = read_episodes(info)
        usable = [e for e in table.present if trained is None or e in set(trained)] or table.present
        seeds = {
            row["episode_index"]: row for row in recorded_episodes(info.root) if row["episode_index"] in set(usable)
        }
        wanted = [t for t in tasks if any(row["task"] == t for row in seeds.values())]
        if wanted:
            each = [[e for e, row in seeds.items() if row["task"] == task] for task in wanted]
            longest = max(len(found) for found in each)
            chosen = [found[i] for i in range(longest) for found in each if i < len(found)][:episodes]
        else:
            count = min(episodes, len(usable))
            chosen, seeds = [usable[i * len(usable) // count] for i in range(count)], {}
        rows = [
            Row(
                e,
                seeds[e]["task"] if e in seeds else table.task[e],
                seeds[e]["seed"] if e in seeds else None,
                int(table.start[e]),
                int(table.end[e]),
            )
            for e in sorted(chosen)
        ]
        return cls(info, table, rename, rows)

    @property
    def seeded(self) -> bool:
        """Whether it says from which seeds its episodes began."""
        return self.rows[0].seed is not None

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the policy's names; pictures as (C, H, W)."""
        found = {}
        for name, feature in self.info.features.items():
            if name.startswith("observation"):
                shape = tuple(int(n) for n in feature["shape"])
                if name in self.info.cameras:
                    # LeRobot's datasets name the axes, whatever their order.
                    axes = feature.get("names") or ["height", "width", "channels"]
                    shape = shape if str(axes[0]).startswith("channel") else (shape[2], *shape[:2])
                found[self.rename.get(name, name)] = shape
        return found

    @cached_property
    def readers(self) -> dict[str, DirectReader]:
        """Cameras by the policy's names."""
        cameras = [name for name in self.info.cameras if not is_depth(self.info.features[name])]
        return {self.rename.get(name, name): DirectReader(self.table, name) for name in cameras}

    @cached_property
    def _numbers(self) -> dict[str, NDArray[np.float32]]:
        named = [
            name
            for name, feature in self.info.features.items()
            if name.startswith((ACTION, "observation")) and str(feature["dtype"]).startswith(("float", "int", "bool"))
        ]
        return {self.rename.get(n, n): read_column(self.info, n, self.table.present) for n in named}

    def numbers(self, name: str) -> NDArray[np.float32] | None:
        """A numeric feature of all frames by the policy's name, `[frames, D]`; None: it has none of that name."""
        return self._numbers.get(name)

    def of(self, name: str, row: Row) -> NDArray[np.float32] | None:
        """A numeric feature of one episode, `[T, D]`."""
        values = self.numbers(name)
        return None if values is None else values[row.start : row.end]

    def by_episode(self, name: str) -> list[NDArray[np.float32]]:
        """A numeric feature, episode by episode, without rows that are not finite or whose action was not recorded."""
        values = self._numbers[name]
        kept = np.asarray(np.isfinite(values).all(axis=1))
        if name == ACTION and ACTION_SOURCE in self.info.features:
            source = read_columns(self.info, [ACTION_SOURCE], self.table.present)[ACTION_SOURCE]
            kept &= source.reshape(-1) == RECORDED
        spans = [slice(self.table.start[e], self.table.end[e]) for e in self.table.present]
        return [values[s][kept[s]] for s in spans if kept[s].any()]

    def spread(self, name: str) -> NDArray[np.float64]:
        """Standard deviation of each dimension over the whole dataset, `[D]`; at least a hundredth of the usual one.

        Differences are divided by it, and a dimension that never moved must not make any of them infinite.
        """
        spread: NDArray[np.float64] = np.concatenate(self.by_episode(name)).std(0, dtype=np.float64)
        moving = spread[spread > 0]
        return np.maximum(spread, 0.01 * float(np.median(moving)) if len(moving) else 1.0)

    def original(self, name: str) -> str:
        """What the dataset calls a feature of the policy."""
        return next((old for old, new in self.rename.items() if new == name), name)

    def joints(self, name: str) -> list[str]:
        """Names of the dimensions of a numeric feature."""
        original = self.original(name)
        count = int(self.info.features[original]["shape"][0])
        return feature_names(self.info.features[original], count) or [str(d) for d in range(count)]
