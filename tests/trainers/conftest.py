"""A whole run of the toy module, and one compute thread: the machine is shared with other tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from lightning_runs import EXACT, fit


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """40 steps in one go, and the samples it saw."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, fit(out, **EXACT).ids
