"""Statistics of actions and states over some episodes, for policies that must not know the numbers of the others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.data.columns import read_columns
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import read_episodes
from hlrp.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBERS = ("float", "int", "uint", "bool")


class LabelledRows(NamedTuple):
    """Rows of a dataset whose numbers a policy may know.

    Args:
        info: The dataset.
        episodes: Episodes that the rows lie in.
        columns: Feature to the column that holds it; None: actions and observations, by their own names.
    """

    info: DatasetInfo
    episodes: Sequence[int]
    columns: Mapping[str, str] | None = None


def labelled_statistics(*parts: LabelledRows) -> "dict[str, dict[str, NDArray[Any]]]":
    """What `meta/stats.json` would say of actions and states of a dataset that had these rows alone.

    Computed from the tables by LeRobot's own function; other rows have no influence, not even through rounding.

    Args:
        *parts: The rows, of one dataset or of several, one behind the other.

    Returns:
        `action` and each `observation.*` that is no picture, to `mean`, `std`, `min`, `max`, `count` and quantiles.

    Raises:
        UserError: No episode is named, or the tables cannot be read.
    """
    import numpy as np
    from lerobot.datasets.compute_stats import get_feature_stats

    if not any(part.episodes for part in parts):
        raise UserError(
            "no episode's actions may be used, so there is nothing to normalise them with",
            where="model.labelled_episodes",
            fix="name at least one episode, or leave the setting out to use all",
        )
    found: dict[str, list[NDArray[Any]]] = {}
    for part in parts:
        for name, rows in _rows(part).items():
            found.setdefault(name, []).append(rows)
    joined = {name: np.concatenate(rows) for name, rows in found.items()}
    return {name: get_feature_stats(rows, axis=0, keepdims=rows.ndim == 1) for name, rows in joined.items()}


def _rows(part: LabelledRows) -> "dict[str, NDArray[Any]]":
    info, columns = part.info, part.columns
    if columns is None:
        columns = {
            name: name
            for name, feature in info.features.items()
            if name.startswith(("action", "observation.")) and str(feature["dtype"]).startswith(_NUMBERS)
        }
    found = read_columns(info, list(columns.values()), sorted(part.episodes))
    rows = read_episodes(info).frame_indices(sorted(set(part.episodes)))
    return {name: found[column][rows].astype("float64") for name, column in columns.items()}
