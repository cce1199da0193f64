"""Datasets whose latents tell the actions, exactly or with noise."""

import pytest
from action_toys import EPISODES, LENGTH, planted


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Actions that are a linear map of the latents: dataset, table, map."""
    return planted(tmp_path_factory.mktemp("clean"), episodes=EPISODES, length=LENGTH)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """The same with noise, two tasks in turn."""
    return planted(tmp_path_factory.mktemp("noisy"), episodes=EPISODES, noise=0.8, tasks=("reach", "push"), seed=1)
