"""Which episodes to label: those after which a linear map from latents to actions would be surest, on average over all.

No action is needed for it: how sure a ridge regression is of a step depends on the features of labelled steps alone.
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

COMPONENTS = 32
"""Principal components of the features that are looked at."""

STRENGTH = 0.1
"""Ridge strength, in steps of a mean episode and variances of a standardised feature."""


class Suggestion(NamedTuple):
    """An episode to label next.

    Args:
        episode: Its number.
        task: Its task.
        variance: What would be left of the mean predictive variance once it is labelled too; 1 with no label at all.
    """

    episode: int
    task: str
    variance: float


def suggest_episodes(
    latents: LatentTable,
    info: DatasetInfo,
    count: int,
    *,
    labelled: Sequence[int] = (),
    inputs: Inputs = "vectors",
) -> list[Suggestion]:
    """Choose the episodes whose labels would help most, one after another.

    Each choice lowers the mean of x' (X'X + s I)^-1 x over all steps x of all videos the most, X the steps that would
    be labelled: transductive experimental design (Yu, Bi and Tresp, ICML 2006), which is Bayesian V-optimal design
    for a ridge regression. Tasks with the fewest labelled episodes come first.

    Args:
        latents: Table of the dataset's latents.
        info: The dataset.
        count: Episodes to choose.
        labelled: Episodes that are labelled already.
        inputs: Continuous latents, or codes.

    Raises:
        UserError: An episode that does not exist, or fewer are left to choose from; or as `check_inputs`.
    """
    check_episodes(info, list(labelled))
    latents.check(dataset=info)
    check_inputs(latents, inputs)
    tasks = read_episodes(info).task
    grams, steps = _episode_grams(latents, info, inputs)
    left = [e for e in range(info.episodes) if steps[e] and e not in set(labelled)]
    if count > len(left):
        raise UserError(
            f"{count} episodes cannot be suggested: {len(left)} have latents and no labels yet",
            where="--suggest",
            fix=f"ask for at most {len(left)}",
        )
    return greedy_design(grams, steps, tasks, count, labelled, left)


def greedy_design(
    grams: "NDArray[np.float64]",
    steps: "NDArray[np.int64]",
    tasks: Sequence[str],
    count: int,
    labelled: Sequence[int],
    left: Sequence[int],
) -> list[Suggestion]:
    """The choice of `suggest_episodes` among the episodes ``left``.

    Args:
        grams: Sums of x x' over each episode's steps, float64 ``[E, P, P]``.
        steps: Steps of each episode, ``[E]``.
        tasks: Task of each episode.
        count: Episodes to choose.
        labelled: Episodes that are labelled already.
        left: Episodes to choose from.
    """
    overall = grams.sum(0) / steps.sum()
    prior = STRENGTH * steps.sum() / np.count_nonzero(steps) * np.eye(len(overall))
    nothing = np.trace(np.linalg.solve(prior, overall))
    known = prior + grams[list(labelled)].sum(0)
    done = Counter(tasks[e] for e in labelled)
    candidates, chosen = list(left), []
    for _ in range(count):
        fewest = min(done[tasks[e]] for e in candidates)
        eligible = [e for e in candidates if done[tasks[e]] == fewest]
        variances = np.trace(np.linalg.solve(known + grams[eligible], overall), axis1=1, axis2=2)
        best = eligible[int(variances.argmin())]
        chosen.append(Suggestion(best, tasks[best], float(variances.min() / nothing)))
        known = known + grams[best]
        done[tasks[best]] += 1
        candidates.remove(best)
    return chosen


def _episode_grams(
    latents: LatentTable, info: DatasetInfo, inputs: Inputs
) -> "tuple[NDArray[np.float64], NDArray[np.int64]]":
    """Sums of x x' over the known steps of each episode on principal components, and how many steps these are."""
    table = read_episodes(info)
    offsets = default_offsets(window_offset(latents.identity.offset_seconds, info.fps))
    features = StepFeatures.of_table(latents, inputs, offsets)

    def rows(episode: int) -> "NDArray[np.float64]":
        windows = read_transitions(latents, int(table.start[episode]), int(table.end[episode]), inputs)
        values, share = features.rows(windows)
        return values[share > 0].astype(np.float64)

    covariance = np.zeros((features.width, features.width))
    steps = np.zeros(len(table), np.int64)
    for episode in range(len(table)):
        values = rows(episode)
        covariance += values.T @ values
        steps[episode] = len(values)
    # Ascending: the last axes are those along which the latents differ most.
    axes = np.linalg.eigh(covariance)[1][:, -COMPONENTS:]
    grams = np.zeros((len(table), axes.shape[1], axes.shape[1]))
    for episode in np.flatnonzero(steps).tolist():
        turned = rows(episode) @ axes
        grams[episode] = turned.T @ turned
    return grams, steps
