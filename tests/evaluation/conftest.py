"""A tiny policy for PushT."""

from pathlib import Path

import pytest
from tiny_policies import save_tiny_act


@pytest.fixture(scope="module")
def pusht(tmp_path_factory) -> Path:
    return save_tiny_act(tmp_path_factory.mktemp("pusht") / "pretrained_model", "pusht")
