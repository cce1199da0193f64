"""A whole run of the toy module."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from lightning_runs import EXACT, fit


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """40 steps in one go, and the samples it saw."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, fit(out, **EXACT).ids
