"""Which episodes to label: a few that stand for all, told by their latents alone.

docs/actions.md compares this rule with others and with chance.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hlrp.data.dataset_info import DatasetInfo, check_episodes
from hlrp.data.episodes import read_episodes, window_offset
from hlrp.errors import UserError
from hlrp.latents.step_features import Inputs, StepFeatures, check_inputs, default_offsets, read_transitions
from hlrp.latents.table import LatentTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_COVERED = 2000
"""Episodes of a task, evenly chosen, that are to be stood for."""


class Suggestion(NamedTuple):
    """An episode to label next.

    Args:
        episode: Its number.
        task: Its task.
        distance: Mean distance of the task's episodes to the nearest labelled one once it is labelled too, over that
            to the task's mean.
    """

    episode: int
    task: str
    distance: float


def suggest_episodes(
    latents: LatentTable,
    info: DatasetInfo,
    count: int,
    *,
    labelled: Sequence[int] = (),
    inputs: Inputs = "both",
) -> list[Suggestion]:
    """Choose the episodes whose labels would help most, one after another.

    Each choice brings the episodes of its task closest to a labelled one: greedy facility location (Nemhauser, Wolsey
    and Fisher, 1978) on the mean features of an episode. Tasks with the fewest labelled episodes come first.

    Args:
        latents: Table of the dataset's latents.
        info: The dataset.
        count: Episodes to choose.
        labelled: Episodes that are labelled already.
        inputs: What is read of the latents.

    Raises:
        UserError: An episode that does not exist, or fewer are left to choose from; or as `check_inputs`.
    """
    check_episodes(info, list(labelled))
    latents.check(dataset=info)
    check_inputs(latents, inputs)
    means = _episode_means(latents, info, inputs)
    left = len(set(means) - set(labelled))
    if count > left:
        raise UserError(
            f"{count} episodes cannot be suggested: {left} have latents and no labels yet",
            where="--suggest",
            fix=f"ask for at most {left}",
        )
    return cover(means, read_episodes(info).task, count, labelled)


def cover(
    means: "dict[int, NDArray[np.float32]]", tasks: Sequence[str], count: int, labelled: Sequence[int]
) -> list[Suggestion]:
    """The choice of `suggest_episodes`.

    Args:
        means: Mean features ``[F]`` of each episode that can be chosen or is labelled.
        tasks: Task of each episode of the dataset.
        count: Episodes to choose.
        labelled: Episodes that are labelled already; those that have no features count for the balance alone.
    """
    done = Counter(tasks[e] for e in labelled)
    regions = {}
    for task in sorted({tasks[e] for e in means}):
        mine = [e for e in sorted(means) if tasks[e] == task]
        regions[task] = _Region(mine, np.stack([means[e] for e in mine]), [e for e in labelled if e in mine])
    chosen = []
    for _ in range(count):
        open_tasks = [task for task, region in regions.items() if region.candidates]
        fewest = min(done[task] for task in open_tasks)
        # Of tasks that are even, the one whose episodes lie farthest from what is labelled.
        task = max((t for t in open_tasks if done[t] == fewest), key=lambda t: regions[t].left)
        episode = regions[task].take()
        done[task] += 1
        chosen.append(Suggestion(episode, task, regions[task].left))
    return chosen


class _Region:
    """The episodes of one task, and how far each is from the nearest labelled one."""

    def __init__(self, episodes: list[int], means: "NDArray[np.float32]", labelled: Sequence[int]) -> None:
        self.candidates = [e for e in episodes if e not in labelled]
        self._row = {episode: row for row, episode in enumerate(episodes)}
        step = -(-len(means) // MOST_COVERED)
        covered = means[::step]
        squares = (means**2).sum(1)[:, None] + (covered**2).sum(1) - 2 * means @ covered.T
        self._distances = np.sqrt(squares.clip(0))
        self._unit = float(np.linalg.norm(covered - covered.mean(0), axis=1).mean()) or 1.0
        rows = [self._row[e] for e in labelled]
        self._nearest = self._distances[rows].min(0) if rows else np.full(len(covered), self._distances.max())

    @property
    def left(self) -> float:
        """Mean distance to the nearest labelled episode, over that to the mean."""
        return float(self._nearest.mean()) / self._unit

    def take(self) -> int:
        """Label the candidate that leaves the least distance."""
        rows = [self._row[e] for e in self.candidates]
        sums = np.asarray([np.minimum(self._nearest, self._distances[row]).sum() for row in rows])
        episode = self.candidates.pop(int(sums.argmin()))
        self._nearest = np.minimum(self._nearest, self._distances[self._row[episode]])
        return episode


def _episode_means(latents: LatentTable, info: DatasetInfo, inputs: Inputs) -> "dict[int, NDArray[np.float32]]":
    """Mean features of the known steps of each episode that has any."""
    table = read_episodes(info)
    offsets = default_offsets(window_offset(latents.identity.offset_seconds, info.fps))
    features = StepFeatures.of_table(latents, inputs, offsets)
    means = {}
    for episode in range(len(table)):
        windows = read_transitions(latents, int(table.start[episode]), int(table.end[episode]), inputs)
        rows, share = features.rows(windows)
        if share.any():
            means[episode] = rows[share > 0].mean(0)
    return means
