"""The foundation backends and their training on the pretended device."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_reads import planted_read
from pretended_cuda import CUDA, move, pretended_cuda
from pretended_training import train
from torch import Tensor

from hlrp.config import LightningRun
from hlrp.foundation import FoundationDataModule, FoundationModule
from hlrp.foundation.backbones import make_tiny_backbone
from hlrp.foundation.backends import FoundationBatch
from hlrp.foundation.backends.registry import backend_class
from hlrp.foundation.config import BackendConfig, CodeSpec

CODES, WIDTH = 5, 3
CAMERAS = ("top", "wrist")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp("backbone") / name for name in ("smol_latent_head", "qwen3vl_chat")}
    for name, folder in made.items():
        make_tiny_backbone(folder, name)  # type: ignore[arg-type]
    return made


def make(folders: dict[str, Path], name: str, frames: int = 3, **changes: Any) -> Any:
    spec = CodeSpec(
        codebook_size=CODES,
        code_seq_len=2,
        num_frames=frames,
        offset_seconds=0.1,
        laq_sha256="0" * 64,
        vector_dim=WIDTH,
    )
    values: dict[str, Any] = {"backend": name, "spec": spec, "cameras": CAMERAS, "state_dim": 2}
    return backend_class(name).from_backbone(BackendConfig(**(values | changes)), folders[name])  # type: ignore[arg-type]


def make_batch(positions: int, *, count: int = 2, missing: bool = True) -> FoundationBatch:
    frames = torch.randint(0, 256, (count, 3, 96, 96), dtype=torch.uint8)
    mask = torch.ones(count, positions, dtype=torch.bool)
    mask[0, 1:] = False
    there = torch.arange(count) > 0
    return FoundationBatch(
        images={"top": frames, "wrist": frames[..., :64].float() / 255},
        instruction=["push", "pull the long lever"] * (count // 2),
        image_masks={"wrist": there} if missing else None,
        state=torch.randn(count, 2),
        target_codes=torch.randint(0, CODES, (count, positions)),
        target_vectors=torch.randn(count, positions, WIDTH),
        target_mask=mask,
    )


@pytest.mark.parametrize(("mode", "missing"), [("codes", False), ("codes", True), ("vectors", True), ("flow", False)])
def test_smolvlm_learns_and_predicts(folders: dict[str, Path], mode: str, missing: bool) -> None:
    backend = make(folders, "smol_latent_head", mode=mode)
    batch = make_batch(4, missing=missing)
    with pretended_cuda(strict=False) as cuda:
        backend.to("cuda")
        if mode != "codes":
            backend.set_target_statistics(torch.zeros(WIDTH).to(CUDA), torch.ones(WIDTH).to(CUDA))
        batch = batch.to("cuda")
        # The first step may ask for what stays as it is.
        for cuda.strict in (False, True):
            out = backend.loss_from_batch(batch)
        out.loss.backward()
        assert out.loss.device == out.per_sample.device == CUDA
        assert all(p.grad is not None for p in backend.head.parameters())
        optimizer = torch.optim.AdamW([{"params": list(backend.parameters()), "fused": True}])
        optimizer.step()
        for call in (backend.loss_from_batch, backend.latent_from_batch):
            with planted_read():
                call(batch)
        for temperature in (0.0, 1.0):
            found = backend.latent_from_batch(batch.without_targets(), temperature=temperature)
            assert (found.codes if mode == "codes" else found.vectors).device == CUDA


def test_flags_on_the_device_are_not_read(folders: dict[str, Path]) -> None:
    """A policy's batch may hold them there; what is not known to be whole is masked."""
    backend = make(folders, "smol_latent_head")
    with pretended_cuda(strict=False) as cuda:
        backend.to("cuda")
        batch = make_batch(4)
        batch = replace(batch.to("cuda"), image_masks=move(batch.image_masks), state=move(batch.state))
        for cuda.strict in (False, True):
            backend.loss_from_batch(batch).loss.backward()


# transformers counts image tokens, and picks them by a mask.
QWEN = {
    "modeling_qwen3_vl.py:get_placeholder_mask",
    "modeling_qwen3_vl.py:_deepstack_process",
    "masking_utils.py:_ignore_causal_mask_sdpa",
    "tests/devices/test_device_foundation.py:backward",
}


def backward(loss: Tensor) -> None:
    """Of the same picking."""
    loss.backward()


@pytest.mark.parametrize("missing", [False, True], ids=["all there", "a camera missing"])
def test_qwen_learns_and_generates(folders: dict[str, Path], missing: bool) -> None:
    backend = make(folders, "qwen3vl_chat")
    batch = make_batch(4, missing=missing)
    prompts, _ = backend._read(batch)
    with pretended_cuda(known=QWEN) as cuda:
        cuda.picked = int(sum((p.ids == backend.processor.image_token_id).sum() for p in prompts))
        backend.to("cuda")
        batch = batch.to("cuda")
        out = backend.loss_from_batch(batch)
        backward(out.loss)
        assert out.loss.device == CUDA
        for temperature in (0.0, 1.0):
            found = backend.latent_from_batch(batch.without_targets(), temperature=temperature)
            assert found.codes.device == CUDA
        with planted_read():
            backend.latent_from_batch(batch.without_targets())


def make_module(root: Path, latents: dict[str, Path], **model: Any) -> tuple[FoundationModule, FoundationDataModule]:
    run = {
        "trainer_type": "lightning",
        "trainer": {"steps": 4, "batch_size": 4, "eval_split": 0.3},
        "model": {"kind": "foundation", "use_state": True, **model},
        "data": {"root": str(root), "num_workers": 0, "cache": "ram"},
        "latents": {key: str(path) for key, path in latents.items()},
    }
    data = FoundationDataModule(LightningRun.model_validate(run), max_val_windows=4)
    return FoundationModule(LightningRun.model_validate(run), data), data


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ("table2", {"mode": "codes"}),
        ("laq3", {"mode": "vectors"}),
        ("laq3", {"mode": "flow"}),
        ("table2", {"backend": "qwen3vl_chat"}),
    ],
    ids=["table", "online vectors", "online flow", "qwen"],
)
def test_training_steps(source: str, model: dict[str, Any], squares: Path, request: pytest.FixtureRequest) -> None:
    """With the state, and labels from a table or made by a frozen quantizer."""
    latents = {"table" if source.startswith("table") else "laq": request.getfixturevalue(source)}
    module, data = make_module(squares, latents, **model)
    # Backward is Lightning's to call here.
    known = (QWEN | {"module.py:backward"}) - {"tests/devices/test_device_foundation.py:backward"}
    with pretended_cuda(known=known if "backend" in model else ()) as cuda:
        if "backend" in model:
            cuda.picked = 4 * module.backend.pixels.tokens(96, 96)
        train(cuda, module, data, in_optimizer=source == "laq3", gradient_clip_val=1.0)
        assert all(group["fused"] for group in module.optimizers(use_pl_optimizer=False).param_groups)
