"""Small real quantizers for the tests of `hlrp.laq`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from laq_toys import EPISODES, LENGTH
from make_dataset import make_dataset

from hlrp.laq import LAQ, LAQConfig

SMALL: dict[str, Any] = {
    "image_size": (16, 24),
    "patch_size": 8,
    "dim": 32,
    "heads": 2,
    "spatial_layers": 1,
    "temporal_layers": 1,
    "decoder_layers": 1,
    "code_dim": 8,
}


@pytest.fixture(autouse=True)
def _one_seed_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small() -> Callable[..., LAQ]:
    """Builds a small quantizer; its decoder is no copy, so that gradients and codes show in pictures."""

    def build(**changes: Any) -> LAQ:
        laq = LAQ(LAQConfig(**SMALL | changes))
        torch.nn.init.normal_(laq.decoder.to_pixels.weight, std=0.05)
        return laq

    return build


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 episodes of 21 frames of 48x48 pixels, 10 per second."""
    return make_dataset(tmp_path_factory.mktemp("labelling") / "squares", episodes=EPISODES, length=LENGTH, size=48)
