"""Small backends of both kinds, the observations they are shown, and scenes that can be learned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hlrp.foundation.backends import FoundationBatch, VLABackend
from hlrp.foundation.backends.registry import backend_class
from hlrp.foundation.config import BackendConfig
from hlrp.latents import CodeSpec

CODES, POSITIONS, WIDTH = 5, 4, 3
TEXTS = ["press the button", "close", "reach to the goal"]


def config_of(backend: str, **changes: Any) -> BackendConfig:
    spec = CodeSpec(
        codebook_size=CODES,
        code_seq_len=2,
        num_frames=3,
        offset_seconds=0.1,
        laq_sha256="0" * 64,
        vector_dim=WIDTH,
    )
    values: dict[str, Any] = {"backend": backend, "spec": spec, "cameras": ("top",)}
    return BackendConfig(**(values | changes))


def make_backend(backend: str, folder: Path, **changes: Any) -> VLABackend:
    torch.manual_seed(0)
    return backend_class(backend).from_backbone(config_of(backend, **changes), folder).eval()


def frames(count: int = 3, size: tuple[int, int] = (96, 96), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)


def observations(**changes: Any) -> FoundationBatch:
    return replace(FoundationBatch(images={"top": frames()}, instruction=TEXTS), **changes)


def labels(seed: int = 0) -> Tensor:
    return torch.randint(0, CODES, (3, POSITIONS), generator=torch.Generator().manual_seed(seed))


def scenes(count: int, seed: int) -> FoundationBatch:
    """A bright square left or right, and two instructions; the first code tells the side, the second both together."""
    generator = torch.Generator().manual_seed(seed)
    side, task = (torch.randint(0, 2, (count,), generator=generator) for _ in range(2))
    images = torch.randint(0, 60, (count, 3, 96, 96), generator=generator, dtype=torch.uint8)
    tops = torch.randint(10, 60, (count,), generator=generator).tolist()
    for i, top in enumerate(tops):
        left = 12 + 48 * int(side[i])
        images[i, :, top : top + 24, left : left + 24] = 230
    codes = torch.stack([side, side ^ task, task, side * 2 + task], dim=1)
    texts = [("open it", "close it")[int(t)] for t in task]
    return FoundationBatch(images={"top": images}, instruction=texts, target_codes=codes)
