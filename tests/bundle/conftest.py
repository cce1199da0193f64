"""A small dataset of two tasks, real quantizers of random weights, and latent tables of their labels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from make_dataset import make_dataset
from make_labels import make_quantizer, make_table


@pytest.fixture(autouse=True)
def _one_seed_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 episodes of 20 frames at 10 fps, 96 pixels, two tasks in turn, a state of 2, actions of 3."""
    tasks = ("push the square", "pull it")
    return make_dataset(tmp_path_factory.mktemp("data") / "squares", episodes=4, length=20, size=96, tasks=tasks)


@pytest.fixture(scope="session")
def laq2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantizer for windows of two frames, 0.2 s apart, K = 8, S = 2."""
    return make_quantizer(tmp_path_factory.mktemp("laq") / "two")


@pytest.fixture(scope="session")
def laq3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for windows of three frames."""
    return make_quantizer(tmp_path_factory.mktemp("laq") / "three", num_frames=3, seed=1)


@pytest.fixture(scope="session")
def table2(squares: Path, laq2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_table(squares, laq2, tmp_path_factory.mktemp("tables") / "two")


@pytest.fixture(scope="session")
def table3(squares: Path, laq3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_table(squares, laq3, tmp_path_factory.mktemp("tables") / "three")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone by its folder, which is one that counts as pretrained."""
    from hlrp.foundation.backbones import make_tiny_backbone

    folder = tmp_path_factory.mktemp("backbone") / "smol"
    make_tiny_backbone(folder, "smol_latent_head")
    return folder
