"""Small datasets for the tests of data: two video cameras, and one of pictures in the tables."""

from pathlib import Path

import numpy as np
import pytest
from idle_dataset import make_idle_dataset
from small_datasets import LENGTHS, TOP, WRIST, camera, record

from hlrp.data import read_dataset, read_episodes, sequential_frames
from hlrp.data.episodes import Episodes


@pytest.fixture(scope="session")
def video_root(tmp_path_factory) -> Path:
    """5 episodes at 10 fps of two 48x64 video cameras, actions of 3, tasks push and pull in turn."""
    features = {TOP: camera("video", 48, 64), WRIST: camera("video", 48, 64)}
    features["action"] = {"dtype": "float32", "shape": (3,), "names": None}
    return record(tmp_path_factory.mktemp("data") / "video", features, 10, LENGTHS, [TOP, WRIST])


@pytest.fixture(scope="module")
def table(video_root) -> Episodes:
    """The episodes of `video_root`."""
    return read_episodes(read_dataset(None, video_root))


@pytest.fixture(scope="module")
def pixels(table) -> np.ndarray:
    """All frames of its first camera, uint8 `[frames, C, H, W]`."""
    return np.concatenate([chunk.frames for chunk in sequential_frames(table.info, TOP)])


@pytest.fixture(scope="session")
def image_root(tmp_path_factory) -> Path:
    """2 episodes at 30 fps of one 48x64 camera kept as pictures, without actions."""
    features = {"observation.image": camera("image", 48, 64)}
    return record(tmp_path_factory.mktemp("data") / "image", features, 30, [12, 15], ["observation.image"])


@pytest.fixture(scope="session")
def idle_root(tmp_path_factory) -> Path:
    """4 episodes of 60 frames at 10 fps in which it is known what is idle; see `make_idle_dataset`."""
    return make_idle_dataset(tmp_path_factory.mktemp("data") / "idle")


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A folder for frame stores and what is measured of them."""
    return tmp_path_factory.mktemp("cache")
