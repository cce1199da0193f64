"""Tiny policies for PushT, as they are served."""

from pathlib import Path

import pytest
from tiny_policies import ACT, save_tiny_act

from hlrp.deploy.served import Served, load_served


@pytest.fixture(scope="package")
def act(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_act(tmp_path_factory.mktemp("act") / "pretrained_model")


@pytest.fixture(scope="package")
def served(act: Path) -> Served:
    return load_served(act, device="cpu")


@pytest.fixture(scope="package")
def ensembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that remembers all of its episode, in an object that is no queue."""
    fields = {**ACT, "n_action_steps": 1, "temporal_ensemble_coeff": 0.01}
    return save_tiny_act(tmp_path_factory.mktemp("ensembled") / "pretrained_model", fields=fields)
