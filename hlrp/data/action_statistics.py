"""Statistics of the action of a dataset with pseudo-labels: of recorded actions alone, so that they scale the rest."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.data.columns import ACTION_SOURCE, PREDICTED, RECORDED, read_columns
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import EPISODES, read_episodes
from hlrp.data.linked_copy import Column, rewrite_json, rewrite_table, with_columns
from hlrp.data.statistics_checks import STATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ACTION = "action"


def rewrite_action_statistics(source: DatasetInfo, made: DatasetInfo) -> None:
    """Write the statistics of ``made``'s actions into its `meta/stats.json` and its table of episodes.

    They are LeRobot's, of the recorded frames; of a dataset without any, of the predicted ones. An episode without such
    frames gets those of all others together, and so has no part in what LeRobot aggregates over episodes.

    Args:
        source: The dataset that it was made from, whose other statistics are kept.
        made: The new one; its tables of rows are there.
    """
    import numpy as np

    columns, table = read_columns(made, [_ACTION, ACTION_SOURCE]), read_episodes(source)
    actions = columns[_ACTION].reshape(made.frames, -1)
    origin = columns[ACTION_SOURCE]
    counted = origin == (RECORDED if (origin == RECORDED).any() else PREDICTED)
    spans = [slice(int(first), int(end)) for first, end in zip(table.start, table.end, strict=True)]
    found = {e: _of(actions[span][counted[span]]) for e, span in enumerate(spans) if counted[span].any()}
    if not found:
        return
    together = _aggregate(list(found.values()))
    lengths = table.lengths
    each = [found.get(e) or together | {"count": np.array([int(lengths[e])])} for e in range(len(table))]
    if (source.root / STATS).is_file():
        target = _fresh(made.root / STATS)
        rewrite_json(source.root / STATS, target, lambda said: said | {_ACTION: _listed(together)})
    for path in sorted((source.root / EPISODES).glob("*/*.parquet")):
        target = _fresh(made.root / path.relative_to(source.root))
        rewrite_table(path, target, lambda rows: _with_statistics(rows, each))


def _fresh(path: Path) -> Path:
    """The path with nothing there: a copy of a file that cannot be written could not be written either."""
    path.unlink(missing_ok=True)
    return path


def _of(actions: "NDArray[np.float32]") -> "dict[str, NDArray[Any]]":
    from lerobot.datasets.compute_stats import get_feature_stats

    return get_feature_stats(actions, axis=0, keepdims=False)


def _aggregate(each: "list[dict[str, NDArray[Any]]]") -> "dict[str, NDArray[Any]]":
    from lerobot.datasets.compute_stats import aggregate_stats

    return aggregate_stats([{_ACTION: found} for found in each])[_ACTION]


def _listed(statistics: "dict[str, NDArray[Any]]") -> dict[str, list[Any]]:
    return {name: value.tolist() for name, value in statistics.items()}


def _with_statistics(rows: Any, each: "list[dict[str, NDArray[Any]]]") -> Any:
    """Rows of the table of episodes, each with the statistics of its action."""
    import pyarrow as pa

    prefix = f"stats/{_ACTION}/"
    listed = [_listed(each[episode]) for episode in rows.column("episode_index").to_pylist()]
    columns: dict[str, Column] = {}
    for name, value in each[0].items():
        kind = "int64" if value.dtype.kind == "i" else "float64"
        values = pa.array([row[name] for row in listed], pa.list_(pa.type_for_alias(kind)))
        columns[prefix + name] = Column(values, {"feature": {"dtype": kind, "_type": "Value"}, "_type": "List"})
    stale = [name for name in rows.column_names if name.startswith(prefix) and name not in columns]
    return with_columns(rows.drop_columns(stale), columns)
