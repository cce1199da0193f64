"""Tiny policies: for PushT, as they are served, and for the simulated arm."""

from pathlib import Path

import pytest
from arm import LATENT, record, save_policy
from tiny_policies import ACT, save_tiny_act
from trials import Trials

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


@pytest.fixture(scope="package")
def waved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded on the simulated arm."""
    return record(tmp_path_factory.mktemp("data") / "wave")


@pytest.fixture(scope="package")
def waver(waved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy for it."""
    return save_policy(tmp_path_factory.mktemp("runs") / "act", waved)


@pytest.fixture(scope="package")
def latent(waved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("runs") / "latent", waved, LATENT)


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)
