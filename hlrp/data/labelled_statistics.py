"""Statistics of actions and states over some episodes, for policies that must not know the numbers of the others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hlrp.data.columns import ACTION_SOURCE, PREDICTED, RECORDED, read_columns
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import read_episodes
from hlrp.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ACTION = "action"
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

    Computed from the tables by LeRobot's own function; other rows have no influence, not even through rounding. Where
    datasets have pseudo-labels, `action` is of recorded rows alone, or, if no part has any, of predicted ones: as
    `rewrite_action_statistics` has it for a whole dataset.

    Args:
        *parts: The rows, of one dataset or of several, one behind the other.

    Returns:
        `action` and each `observation.*` that is no picture, to `mean`, `std`, `min`, `max`, `count` and quantiles.

    Raises:
        UserError: No episode is named, no action of them is known, or the tables cannot be read.
    """
    import numpy as np
    from lerobot.datasets.compute_stats import get_feature_stats

    if not any(part.episodes for part in parts):
        raise UserError(
            "no episode's actions may be used, so there is nothing to normalise them with",
            where="model.labelled_episodes",
            fix="name at least one episode, or leave the setting out to use all",
        )
    each = [_rows(part) for part in parts]
    if any(ACTION_SOURCE in rows for rows in each):
        _keep_known_actions(each, parts)
    found: dict[str, list[NDArray[Any]]] = {}
    for part in each:
        for name, rows in part.items():
            found.setdefault(name, []).append(rows)
    joined = {name: np.concatenate(rows) for name, rows in found.items()}
    return {name: get_feature_stats(rows, axis=0, keepdims=rows.ndim == 1) for name, rows in joined.items()}


def _rows(part: LabelledRows) -> "dict[str, NDArray[Any]]":
    """The columns' rows, and `ACTION_SOURCE` of them where the dataset says where its actions are from."""
    info, columns = part.info, part.columns
    if columns is None:
        columns = {
            name: name
            for name, feature in info.features.items()
            if name.startswith((_ACTION, "observation.")) and str(feature["dtype"]).startswith(_NUMBERS)
        }
    if _ACTION in columns and ACTION_SOURCE in info.features:
        columns = {**columns, ACTION_SOURCE: ACTION_SOURCE}
    found = read_columns(info, list(columns.values()), sorted(part.episodes))
    rows = read_episodes(info).frame_indices(sorted(set(part.episodes)))
    return {name: found[column][rows].astype("float64") for name, column in columns.items()}


def _keep_known_actions(each: "Sequence[dict[str, NDArray[Any]]]", parts: Sequence[LabelledRows]) -> None:
    """Leave of each part's actions those to normalise with; what says where they are from is taken out."""
    import numpy as np

    having = [rows for rows in each if _ACTION in rows]
    # A dataset that does not say holds nothing but what was recorded.
    origins = [rows.pop(ACTION_SOURCE, np.full(len(rows[_ACTION]), RECORDED)) for rows in having]
    counted = next((kind for kind in (RECORDED, PREDICTED) if any((o == kind).any() for o in origins)), None)
    if counted is None:
        raise UserError(
            "no action of the labelled episodes is known: zeros stand there, and there is nothing to normalise with",
            where=", ".join(f"{part.info.root / 'data'}, column {ACTION_SOURCE}" for part in parts if part.episodes),
            fix="label episodes with recorded or predicted actions",
        )
    for rows, origin in zip(having, origins, strict=True):
        rows[_ACTION] = rows[_ACTION][origin == counted]
