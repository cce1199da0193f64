"""Statistics of actions and states over some episodes, for policies that must not know the numbers of the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hlrp.data.columns import read_columns
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import read_episodes
from hlrp.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBERS = ("float", "int", "uint", "bool")


def labelled_statistics(info: DatasetInfo, episodes: Sequence[int]) -> "dict[str, dict[str, NDArray[Any]]]":
    """What `meta/stats.json` would say of actions and states if the dataset had these episodes alone.

    Computed from the tables by LeRobot's own function; rows of other episodes have no influence, not even through
    rounding.

    Args:
        info: The dataset.
        episodes: Episodes whose rows are read.

    Returns:
        `action` and each `observation.*` that is no picture, to `mean`, `std`, `min`, `max`, `count` and quantiles.

    Raises:
        UserError: No episode is named, or the tables cannot be read.
    """
    from lerobot.datasets.compute_stats import get_feature_stats

    if not episodes:
        raise UserError(
            "no episode's actions may be used, so there is nothing to normalise them with",
            where="model.labelled_episodes",
            fix="name at least one episode, or leave the setting out to use all",
        )
    names = [
        name
        for name, feature in info.features.items()
        if name.startswith(("action", "observation.")) and str(feature["dtype"]).startswith(_NUMBERS)
    ]
    columns = read_columns(info, names, sorted(episodes))
    rows = read_episodes(info).frame_indices(sorted(set(episodes)))
    return {name: get_feature_stats(v[rows], axis=0, keepdims=v.ndim == 1) for name, v in columns.items()}
