"""A small dataset of two tasks, a real quantizer of random weights, and the labels that it gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from foundation_toys import CAMERA, TASKS, make_table
from make_dataset import make_dataset


@pytest.fixture(autouse=True)
def _one_seed_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def square_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 episodes of 20 frames at 10 fps, 96 pixels, two tasks in turn, a state of 2."""
    return make_dataset(tmp_path_factory.mktemp("data") / "squares", episodes=6, length=20, size=96, tasks=TASKS)


def _quantizer(root: Path, folder: Path, num_frames: int, seed: int) -> Path:
    from hlrp.data import FrameWindows, WindowSource, read_dataset
    from hlrp.laq import LAQ, LAQConfig

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"image_size": 24, "patch_size": 8, "dim": 32, "heads": 2, "spatial_layers": 1}
    config = LAQConfig(**sizes, num_frames=num_frames, offset_seconds=0.2, codebook_size=8, code_seq_len=2, code_dim=8)
    laq = LAQ(config).eval()
    windows = FrameWindows([WindowSource(read_dataset(None, root))], num_frames=num_frames, offset_seconds=0.2, size=24)
    # Codes of random weights fall together unless they are placed among what is to be told apart.
    laq.quantizer.initialise(laq.encode_vectors(windows.__getitems__(list(range(60)))["frames"]).flatten(0, 1))
    laq.save(folder, cameras=[CAMERA])
    return folder


@pytest.fixture(scope="session")
def laq2(square_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantizer for windows of two frames, 0.2 s apart, K = 8, S = 2."""
    return _quantizer(square_root, tmp_path_factory.mktemp("laq") / "two", 2, 0)


@pytest.fixture(scope="session")
def laq3(square_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for windows of three frames."""
    return _quantizer(square_root, tmp_path_factory.mktemp("laq") / "three", 3, 1)


@pytest.fixture(scope="session")
def table2(square_root: Path, laq2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labels of `laq2`, with continuous latents."""
    return make_table(square_root, laq2, tmp_path_factory.mktemp("tables") / "two")


@pytest.fixture(scope="session")
def table3(square_root: Path, laq3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labels of `laq3`, with continuous latents."""
    return make_table(square_root, laq3, tmp_path_factory.mktemp("tables") / "three")
