"""Data for tests of policies, and one compute thread: the machine is shared with other tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def square_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five episodes of 24 frames at 64 pixels, with real encoded video."""
    from make_dataset import make_dataset

    return make_dataset(tmp_path_factory.mktemp("policies") / "square", episodes=5)
