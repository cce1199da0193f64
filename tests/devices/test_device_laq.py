"""The quantizer on the pretended device: training, upkeep, validation, encoding and decoding."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from planted_reads import planted_read
from pretended_cuda import CUDA, move, pretended_cuda
from pretended_training import train
from torch.utils.data import DataLoader

from hlrp.config import LightningRun
from hlrp.laq import LAQ, LAQConfig, LAQModule

QUANTIZERS = ["nsvq", "fsq", "vq"]


def batches(frames: int, count: int = 4) -> DataLoader[Any]:
    valid = torch.ones(6, frames - 1, dtype=torch.bool)
    valid[0, -1] = False
    one = {
        "frames": torch.randint(0, 256, (6, frames, 3, 24, 24), dtype=torch.uint8),
        "valid": valid,
        "source": torch.arange(6) % 2,
    }
    return DataLoader([one] * count, batch_size=None)  # type: ignore[arg-type]


def make_module(frames: int, quantizer: str, **model: Any) -> LAQModule:
    run = {
        "trainer_type": "lightning",
        "trainer": {"steps": 30, "batch_size": 6},
        "model": {"kind": "laq", "preset": "tiny", "image_size": [24, 24], "quantizer": quantizer, **model},
        "data": {"root": "toy", "num_frames": frames},
    }
    return LAQModule(LightningRun.model_validate(run))


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_training_steps(quantizer: str, frames: int) -> None:
    module = make_module(frames, quantizer)
    with pretended_cuda() as cuda:
        train(cuda, module, batches(frames), in_optimizer=frames == 3, gradient_clip_val=1.0)
        # Else a resumed optimizer would ask the device for every parameter's number of steps.
        assert all(group["fused"] for group in module.optimizers(use_pl_optimizer=False).param_groups)


def test_a_resumed_run(tmp_path: Path) -> None:
    """Its optimizer's numbers of steps, too, are on the device: on the host, each would be asked for at every step."""
    with pretended_cuda() as cuda:
        train(cuda, make_module(2, "nsvq"), batches(2), save=tmp_path / "state")
        module = make_module(2, "nsvq")
        train(cuda, module, batches(2), resume=tmp_path / "state", in_optimizer=True)
        assert module._is_placed and module.global_step == 4


@pytest.mark.parametrize("quantizer", ["nsvq", "vq"])
def test_upkeep_of_the_codebook_and_its_report(quantizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done every so often, and with values on the host: on one device all the same."""
    monkeypatch.setattr("hlrp.laq.module.USAGE_WINDOW", 1)
    monkeypatch.setattr("hlrp.laq.module.replacement_at", lambda step, total: 1.0)
    module = make_module(2, quantizer)
    with pretended_cuda(strict=False):
        module.to("cuda")
        batch = move(next(iter(batches(2))))
        module.laq.quantizer.initialise(module.laq.encode_vectors(batch["frames"])[batch["valid"]])
        module.training_step(batch, 0)
        module._replace(1.0)
        module._report_usage()
        assert module.uses.device == module.window.device == module.laq.quantizer.codebook.device == CUDA


def test_validation() -> None:
    module = make_module(3, "nsvq")
    batch = next(iter(batches(3)))
    with pretended_cuda():
        module.to("cuda")
        module.on_validation_epoch_start()
        # Which pairs are valid stays on the host, as the module's own transfer leaves it.
        module.validation_step(batch | move({"frames": batch["frames"]}), 0)
        assert module._meter is not None and module._meter._counts is not None
        assert module._meter._counts.device == CUDA


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_encoding_and_decoding(quantizer: str, frames: int) -> None:
    sizes: dict[str, Any] = {"image_size": 24, "patch_size": 8, "dim": 32, "heads": 2, "code_dim": 8}
    sizes |= {"spatial_layers": 1, "temporal_layers": 1, "decoder_layers": 1}
    laq = LAQ(LAQConfig(**sizes, num_frames=frames, quantizer=quantizer))
    windows = torch.randint(0, 256, (2, frames, 3, 24, 24), dtype=torch.uint8)
    with pretended_cuda():
        laq.to("cuda")
        for given in (windows, windows.to("cuda").float() / 255):
            codes = laq.encode(given)
            shown = laq.decode(given[:, 0], codes[:, 0])
            assert codes.device == shown.device == laq.encode_vectors(given).device == CUDA
        assert laq.decode(windows[:, 0], torch.zeros_like(windows[:, 0, 0, 0, :4], dtype=torch.int64)).device == CUDA
        for call in (lambda: laq.encode(windows), lambda: laq.decode(windows[:, 0], codes[:, 0])):
            with planted_read():
                call()


def test_the_report_and_a_checkpoint_go_to_the_device_that_is_asked_for(laq2: Path) -> None:
    from hlrp.laq.card.pictures import draw_pictures
    from hlrp.laq.card.probe import probe_inputs
    from hlrp.laq.card.transfer import measure_transfer
    from hlrp.laq.metrics import random_laq

    batch = {
        "frames": torch.randint(0, 256, (6, 2, 3, 48, 48), dtype=torch.uint8),
        "valid": torch.ones(6, 1, dtype=torch.bool),
        "action_sum": torch.randn(6, 1, 3),
        "episode_index": torch.arange(6),
        "index": torch.arange(6),
    }
    with pretended_cuda(strict=False):
        laq = LAQ.from_checkpoint(laq2, "cuda")
        assert laq.device == CUDA
        batch = move(batch)
        before = torch.zeros(16, dtype=torch.uint8)
        with (
            patch("torch.cuda.get_rng_state", return_value=before),
            patch("torch.cuda.set_rng_state") as restore,
        ):
            random_laq(laq.config, [batch["frames"]], device="cuda")
        (state, place), _ = restore.call_args
        assert state is before and torch.device(place).type == "cuda"
        measure_transfer(laq, [batch], torch.ones(2, 8), seed=0)
        assert probe_inputs(laq, [batch]).vectors.device.type == "cpu"
        draw_pictures(laq, [batch])


def test_a_step_in_feature_space_with_labelled_actions(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    from hlrp.laq.grounding import ActionHead

    sizes = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=14, patch_size=7)
    Dinov2Model(sizes).save_pretrained(tmp_path)
    module = make_module(3, "nsvq", space="features", feature_model=tmp_path)
    module.heads["action"] = ActionHead(4 * 32, 3)
    batch = next(iter(batches(3))) | {"action_sum": torch.randn(6, 2, 3), "has_action": torch.arange(6) < 3}
    with pretended_cuda():
        module.to("cuda")
        optimizer = module.configure_optimizers()["optimizer"]
        loss = module.training_step(move(batch), 0)
        loss.backward()
        optimizer.step()
        assert loss.device == module.heads["action"].project.weight.grad.device == CUDA
