"""Which episodes to label: told by the latents alone, better than chance where episodes differ in kind."""

from itertools import combinations

import numpy as np
import pytest
from action_toys import label, planted, record, spoil_column

from hlrp.data import read_dataset
from hlrp.data.columns import read_column
from hlrp.errors import UserError
from hlrp.latents.actions import fit_actions
from hlrp.latents.suggestion import cover, suggest_episodes

EPISODES, LENGTH, RARE = 6, 30, (1, 4)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Two of six episodes move along other directions of the latents than the rest, about another mean."""
    folder = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(0)
    mapping = rng.normal(size=(4, 2))
    latents = []
    for episode in range(EPISODES):
        common, rare = ((0.05, 1.0) if episode in RARE else (1.0, 0.05)), 1.5 * (episode in RARE)
        latents.append(rng.normal(size=(LENGTH, 4)) * np.repeat(common, 2) + [0, 0, rare, rare])
    actions = [z @ mapping + 0.2 * rng.normal(size=(LENGTH, 2)) for z in latents]
    info = read_dataset(None, record(folder / "data", actions))
    return info, label(info, folder / "table", latents)


def _true_r2(info, table, labelled):
    decoder = fit_actions(table, info, labelled, offsets=[0], inputs="vectors")
    actions = read_column(info, "action").reshape(EPISODES, LENGTH, 2)
    rest = [e for e in range(EPISODES) if e not in labelled]
    found = [decoder.episode(table, info, e) for e in rest]
    true = np.concatenate([actions[e][f.known] for e, f in zip(rest, found, strict=True)])
    predicted = np.concatenate([f.actions[f.known] for f in found])
    return 1 - ((predicted - true) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()


def test_suggested_episodes_beat_random_ones(uneven):
    info, table = uneven
    chosen = [s.episode for s in suggest_episodes(table, info, 2)]
    assert len(set(chosen) & set(RARE)) == 1
    at_random = [_true_r2(info, table, list(pair)) for pair in combinations(range(EPISODES), 2)]
    suggested = _true_r2(info, table, chosen)
    assert suggested > 0.85
    assert suggested > np.mean(at_random) + 0.05


def test_what_is_labelled_already_is_not_suggested_again(uneven):
    info, table = uneven
    first, second = suggest_episodes(table, info, 2)
    assert second.distance < first.distance
    (after,) = suggest_episodes(table, info, 1, labelled=[first.episode])
    assert after == second
    with pytest.raises(UserError, match="7 episodes cannot be suggested: 6 have latents"):
        suggest_episodes(table, info, 7)
    with pytest.raises(UserError, match="do not exist"):
        suggest_episodes(table, info, 1, labelled=[EPISODES])


def test_the_choice_is_that_of_a_hand_computation():
    at = [0.0, 1.0, 2.0, 10.0, 12.0]
    means = {number: np.asarray([x, 0], np.float32) for number, x in enumerate(at)}
    first, second = cover(means, ["a"] * 5, 2, [])
    # Distances to 2: 2, 1, 0, 8, 10; to the mean, 5: 5, 4, 3, 5, 7. Then 10 leaves 2, 1, 0, 0, 2.
    assert (first.episode, second.episode) == (2, 3)
    assert first.distance == pytest.approx(21 / 24)
    assert second.distance == pytest.approx(5 / 24)
    assert [s.episode for s in cover(means, ["a"] * 5, 1, [3, 4])] == [1]


def test_tasks_take_turns_and_no_action_is_read(tmp_path):
    info, table, _ = planted(tmp_path, episodes=9, length=20, tasks=("reach", "push", "pull"))
    before = suggest_episodes(table, info, 5, labelled=[0])
    assert {s.task for s in before[:2]} == {"push", "pull"}
    assert {s.task for s in before[2:]} == {"reach", "push", "pull"}
    spoil_column(info, "action", [])
    again = read_dataset(None, info.root)
    latents = [table.vectors(np.arange(e * 20, (e + 1) * 20)).flatten(1).numpy() for e in range(9)]
    assert suggest_episodes(label(again, tmp_path / "again", latents), again, 5, labelled=[0]) == before
