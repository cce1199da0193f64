"""The SmolVLM backend: its parts, losses, modes, saving."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_toys import CODES, POSITIONS, WIDTH, config_of, labels, make_backend, observations
from torch import Tensor

from hlrp.errors import UserError
from hlrp.foundation.backbones import load_backbone, make_tiny_backbone
from hlrp.foundation.backends import BackendMode, VLABackend
from hlrp.foundation.backends.smol_latent_head_backend import SmolLatentHeadBackend
from hlrp.foundation.config import BackendConfig


def config(**changes: Any) -> BackendConfig:
    return config_of("smol_latent_head", **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "tiny"
    make_tiny_backbone(path, "smol_latent_head")
    return path


def make(folder: Path, **changes: Any) -> Any:
    return make_backend("smol_latent_head", folder, **changes)


@pytest.fixture(scope="module")
def backend(folder: Path) -> SmolLatentHeadBackend:
    return make(folder)


# ---- the parts of the model


def test_parts_hold_every_parameter_once_and_none_is_idle(folder: Path) -> None:
    backend = make(folder, state_dim=4)
    assert isinstance(backend, VLABackend)
    held = [id(p) for name in ("vision", "language", "head") for part in backend.part(name) for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in backend.parameters())
    batch = observations(state=torch.ones(3, 4), target_codes=labels())
    backend.loss_from_batch(batch).loss.backward()
    assert [name for name, p in backend.named_parameters() if p.grad is None] == []


def test_layers_keeps_the_first_ones(folder: Path, tmp_path: Path) -> None:
    short = make(folder, layers=2)
    assert len(short.vlm.text_model.layers) == 2
    short.save_backbone(tmp_path)
    again = SmolLatentHeadBackend.from_backbone(config(layers=2), tmp_path, weights=False)
    again.load_state_dict(short.state_dict(), strict=True)
    with pytest.raises(UserError, match="9 language layers are asked for, the backbone has 4"):
        make(folder, layers=9)


def test_files_of_different_backbones_are_refused(folder: Path) -> None:
    model, processor = load_backbone(folder)
    processor.image_seq_len = 25
    with pytest.raises(UserError, match="tokens per image: processor 25, model 16"):
        SmolLatentHeadBackend(config(), model, processor).setup()
    model, processor = load_backbone(folder)
    processor.tokenizer.add_tokens(["<one more>"])
    with pytest.raises(UserError, match="token ids: tokenizer 264, embeddings of the model 263"):
        SmolLatentHeadBackend(config(), model, processor).setup()


def test_what_is_saved_rebuilds_the_same_model(folder: Path, tmp_path: Path) -> None:
    for mode in BackendMode:
        backend = make(folder, mode=mode, state_dim=4)
        if mode is not BackendMode.CODES:
            backend.set_target_statistics(torch.ones(WIDTH), torch.full((WIDTH,), 2.0))
        backend.save_backbone(tmp_path / mode)
        assert not list((tmp_path / mode).glob("*.safetensors"))
        again = SmolLatentHeadBackend.from_backbone(backend.config, tmp_path / mode, weights=False)
        again.load_state_dict(backend.state_dict(), strict=True)
        batch = observations(state=torch.ones(3, 4))
        with torch.no_grad():
            first, second = backend.latent_from_batch(batch), again.eval().latent_from_batch(batch)
        for a, b in ((first.codes, second.codes), (first.logits, second.logits), (first.vectors, second.vectors)):
            assert (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


# ---- losses and predictions


def test_codes_loss_is_the_mean_over_what_is_supervised(backend: SmolLatentHeadBackend) -> None:
    codes, mask = labels(), torch.rand(3, POSITIONS, generator=torch.Generator().manual_seed(1)) > 0.5
    mask[2] = False
    wild = torch.where(mask, codes, torch.tensor(-100))
    out = backend.loss_from_batch(observations(target_codes=wild, target_mask=mask))
    assert out.logits is not None and out.logits.shape == (3, POSITIONS, CODES)
    expected = -out.logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(out.loss.detach(), expected[mask].mean())
    assert out.supervised.tolist() == [True, True, False]
    nothing = backend.loss_from_batch(observations(target_codes=wild, target_mask=torch.zeros_like(mask)))
    assert float(nothing.loss.detach()) == 0
    nothing.loss.backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in backend.parameters() if p.grad is not None)
    backend.zero_grad(set_to_none=True)
    with pytest.raises(ValueError, match="no labels"):
        backend.loss_from_batch(observations())
    with pytest.raises(ValueError, match="outside"):
        backend.loss_from_batch(observations(target_codes=wild))


def test_sampling_follows_temperature_and_generator(backend: SmolLatentHeadBackend) -> None:
    def sample(temperature: float, seed: int) -> Tensor:
        with torch.no_grad():
            out = backend.latent_from_batch(
                observations(), temperature=temperature, generator=torch.Generator().manual_seed(seed)
            )
        assert out.codes is not None
        assert out.codes.shape == (3, POSITIONS)
        assert int(out.codes.min()) >= 0 and int(out.codes.max()) < CODES
        return out.codes

    assert torch.equal(sample(0.0, 0), sample(0.0, 1))
    assert torch.equal(sample(2.0, 0), sample(2.0, 0))
    assert any(not torch.equal(sample(2.0, 0), sample(2.0, seed)) for seed in range(1, 4))
    assert torch.equal(sample(1e-4, 5), sample(0.0, 0))


@pytest.mark.parametrize("mode", [BackendMode.VECTORS, BackendMode.FLOW])
def test_continuous_modes_need_statistics_and_ignore_what_is_masked(folder: Path, mode: BackendMode) -> None:
    backend = make(folder, mode=mode)
    vectors = torch.randn(3, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(0))
    batch = observations(target_vectors=vectors)
    for call in (backend.loss_from_batch, backend.latent_from_batch):
        with pytest.raises(ValueError, match="set_target_statistics"):
            call(batch)
    with pytest.raises(ValueError, match="mean: 3 finite numbers"):
        backend.set_target_statistics(torch.ones(2), torch.ones(2))
    backend.set_target_statistics(torch.tensor([5.0, 0.0, -1.0]), torch.tensor([10.0, 0.0, 0.1]))
    mask = torch.ones(3, POSITIONS, dtype=torch.bool)
    mask[1, 2] = False
    dirty = vectors.clone()
    dirty[1, 2] = torch.nan
    losses = []
    for values in (vectors, dirty):
        torch.manual_seed(0)
        out = backend.loss_from_batch(replace(batch, target_vectors=values, target_mask=mask))
        backend.zero_grad(set_to_none=True)
        out.loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in backend.parameters() if p.grad is not None)
        losses.append(float(out.loss.detach()))
        assert out.logits is None
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="target_vectors"):
        backend.loss_from_batch(observations(target_codes=labels()))
    first, second = backend.latent_from_batch(batch).vectors, backend.latent_from_batch(batch).vectors
    assert first is not None and second is not None
    assert first.shape == (3, POSITIONS, WIDTH)
    assert torch.equal(first, second)
    # The second latent never changes: it is predicted about its mean; units of the first are those of the labels.
    assert float(first[..., 1].abs().max()) < 10
    assert float((first[..., 2] + 1).abs().max()) < 1


@pytest.mark.parametrize("mode", [BackendMode.VECTORS, BackendMode.FLOW])
def test_targets_are_standardised_before_the_loss(
    folder: Path, mode: BackendMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make(folder, mode=mode)
    mean, std = torch.tensor([5.0, 0.0, -1.0]), torch.tensor([10.0, 0.0, 0.5])
    backend.set_target_statistics(mean, std)
    # In units of the statistics: 1 above, 2 below, 3 above; a latent that never changes keeps its own unit.
    vectors = torch.tensor([15.0, -2.0, 0.5]).expand(3, POSITIONS, WIDTH)
    expected = torch.tensor([1.0, -2.0, 3.0]).expand(3, POSITIONS, WIDTH)
    batch = observations(target_vectors=vectors)
    if backend.flow is None:
        with torch.no_grad():
            read = backend.head(*backend.features(batch)).float()
            loss = backend.loss_from_batch(batch).loss
            predicted = backend.latent_from_batch(batch).vectors
        torch.testing.assert_close(loss, (read - expected).square().mean())
        torch.testing.assert_close(predicted, read * torch.tensor([10.0, 1.0, 0.5]) + mean)
        return
    seen = []
    monkeypatch.setattr(backend.flow, "losses", lambda target, read: seen.append(target) or target.square().mean(-1))
    loss = backend.loss_from_batch(batch).loss
    torch.testing.assert_close(seen[0], expected)
    assert float(loss) == pytest.approx((1 + 4 + 9) / 3)


def test_bfloat16_autocast_gives_a_float32_loss(folder: Path) -> None:
    for mode in BackendMode:
        backend = make(folder, mode=mode, state_dim=2)
        if mode is not BackendMode.CODES:
            backend.set_target_statistics(torch.zeros(WIDTH), torch.ones(WIDTH))
        batch = observations(
            state=torch.ones(3, 2), target_codes=labels(), target_vectors=torch.zeros(3, POSITIONS, WIDTH)
        )
        with torch.autocast("cpu", torch.bfloat16):
            out = backend.loss_from_batch(batch)
            predicted = backend.latent_from_batch(batch)
        assert out.loss.dtype == torch.float32
        out.loss.backward()
        assert predicted.vectors is None or predicted.vectors.dtype == torch.float32
