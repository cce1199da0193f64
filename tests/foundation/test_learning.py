"""Both backends learn codes that take the image and the instruction together to know."""

from pathlib import Path

import pytest
import torch
from backend_toys import make_backend, scenes

from hlrp.foundation.backbones import make_tiny_backbone


@pytest.mark.parametrize("name", ["smol_latent_head", pytest.param("qwen3vl_chat", marks=pytest.mark.slow)])
def test_it_learns_from_image_and_instruction_together(name: str, tmp_path: Path) -> None:
    make_tiny_backbone(tmp_path / "tiny", name)
    backend = make_backend(name, tmp_path / "tiny").train()
    optimizer = torch.optim.AdamW(backend.parameters(), lr=1e-3)
    torch.manual_seed(0)
    for step in range(150):
        out = backend.loss_from_batch(scenes(16, step))
        optimizer.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(backend.parameters(), 1.0)
        optimizer.step()
    unseen = scenes(64, 10_000)
    with torch.no_grad():
        codes = backend.eval().latent_from_batch(unseen).codes
    assert codes is not None and unseen.target_codes is not None
    assert float((codes == unseen.target_codes).float().mean()) > 0.9
