"""What is told of actions with few labelled episodes: planted relations come out, and no other action is read."""

from dataclasses import replace

import pytest
import torch

from hlrp.laq.card.label_curve import advantage, label_curves
from hlrp.laq.card.probe import ProbeInputs

EPISODES, LENGTH, WIDTH = 8, 20, 6
TASKS = {episode: f"task {episode % 2}" for episode in range(EPISODES)}


def planted(noise: float = 0.0) -> ProbeInputs:
    """Latents of which actions are a linear map, as good as ``noise`` allows; all else says nothing."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    count = EPISODES * LENGTH
    vectors = draw(count, WIDTH)
    actions = vectors @ draw(WIDTH, 3) + noise * draw(count, 3)
    actions[:, 2] = 7.0  # never varies: not scored
    return ProbeInputs(
        codes=(draw(count, 4) > 0).float(),
        vectors=vectors,
        quantized=draw(count, 2),
        frames=draw(count, 12),
        changes=draw(count, 12),
        actions=actions,
        episodes=torch.arange(EPISODES).repeat_interleave(LENGTH),
    )


def test_a_planted_map_is_told_by_one_episode_a_task_and_noise_by_none() -> None:
    inputs = planted()
    random = replace(
        inputs, vectors=torch.randn(len(inputs.vectors), WIDTH, generator=torch.Generator().manual_seed(5))
    )
    curves = label_curves(inputs, [random], TASKS)
    assert set(curves["vectors"]) == {1, 2}  # five a task are not there
    assert curves["vectors"][1].low == pytest.approx(1, abs=1e-3)
    assert curves["vectors"][1].draws == 10
    for name in ("random", "frames", "changes", "codes"):
        assert curves[name][2].high < 0.2, name
    count, gain = advantage(curves, "random") or (0, 0.0)
    assert count == 2
    assert gain == pytest.approx(curves["vectors"][2].mean - curves["random"][2].mean)


def test_more_labels_tell_more_and_noise_is_not_told() -> None:
    curves = label_curves(planted(noise=2.0), [], TASKS)
    ones, twos = curves["vectors"][1], curves["vectors"][2]
    assert ones.low <= ones.mean <= ones.high
    assert ones.mean < twos.mean < 0.8
    assert "random" not in curves
    assert advantage(curves, "random") is None


def test_the_same_draws_give_the_same_curve_and_others_another() -> None:
    inputs = planted(noise=2.0)
    assert label_curves(inputs, [], TASKS, seed=3) == label_curves(inputs, [], TASKS, seed=3)
    assert label_curves(inputs, [], TASKS, seed=3) != label_curves(inputs, [], TASKS, seed=4)


def test_actions_of_episodes_that_are_not_labelled_are_only_scored() -> None:
    """Turned round, they are told as badly as they were told well: nothing of them went into the map."""
    inputs = planted()
    one_task = dict.fromkeys(range(EPISODES), "one")
    few = replace(inputs, actions=inputs.actions[:, :1])
    curves = label_curves(few, [], one_task)
    turned = few.actions.clone()
    turned[few.episodes >= 4] *= -1
    mixed = label_curves(replace(few, actions=turned), [], one_task)
    # A map fitted on episodes of one half tells the other half with the wrong sign.
    assert mixed["vectors"][1].high < 0.5 < curves["vectors"][1].low
