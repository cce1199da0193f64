"""What a new backend takes: one file and one line of the registry."""

from pathlib import Path

import pytest
import torch
from foundation_toys import CAMERA, make_run

from hlrp.config import load_config
from hlrp.errors import UserError
from hlrp.foundation import Foundation
from hlrp.foundation.backends import VLABackend
from hlrp.foundation.backends.registry import BACKENDS, DEFAULT_BACKEND, backend_class
from hlrp.runs import RunDirectory

# A whole backend. It has no tokenizer: its "language model" is one vector that is added to what the picture gives.
FILE = '''
"""A convolution looks at the picture, a linear head reads the codes."""

import json

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from hlrp.foundation.backends.interfaces import LatentOutput, LossOutput, VLABackend, masked_losses


class ConvBackend(VLABackend):
    model_type = "conv"

    def __init__(self, config, width):
        super().__init__(config)
        self.width = width
        self.eye = nn.Conv2d(3, width, 8, 8)
        self.bias = nn.Linear(1, width)
        self.head = nn.Linear(width, self.positions * self.codebook_size)

    @classmethod
    def from_backbone(cls, config, folder, *, weights=True):
        backend = cls(config, json.loads((folder / "config.json").read_text())["width"])
        if weights:
            backend.eye.load_state_dict(load_file(folder / "model.safetensors"))
        backend.setup()
        return backend

    def save_backbone(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": self.model_type, "width": self.width}))

    @classmethod
    def write_tiny_backbone(cls, folder, seed):
        (folder / "config.json").write_text(json.dumps({"model_type": cls.model_type, "width": 4}))
        save_file(nn.Conv2d(3, 4, 8, 8).state_dict(), folder / "model.safetensors")

    def setup(self):
        pass

    def part(self, name):
        return {"vision": [self.eye], "language": [self.bias], "head": [self.head]}[name]

    def _logits(self, batch):
        frames = batch.images[self.config.cameras[0]].float() / 255
        seen = self.eye(frames).mean((2, 3)) + self.bias(frames.new_ones(1))
        return self.head(seen).unflatten(1, (self.positions, self.codebook_size))

    def loss_from_batch(self, batch):
        codes, mask = batch.check_codes(self.positions, self.codebook_size)
        logits = self._logits(batch)
        losses = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)
        return LossOutput(*masked_losses(losses, mask), logits=logits.detach())

    def latent_from_batch(self, batch, *, temperature=0.0, generator=None):
        logits = self._logits(batch)
        return LatentOutput(codes=logits.argmax(-1), logits=logits)
'''


@pytest.fixture
def conv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the backend above, in a package that is there for this test alone."""
    package = tmp_path / "package" / "more_backends"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "conv_backend.py").write_text(FILE)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(BACKENDS, "conv", "more_backends.conv_backend:ConvBackend")
    return "conv"


def test_one_file_and_one_line_train_a_new_backend(conv, square_root, table2, tmp_path):
    from trainers import LightningTrainer

    run = make_run(square_root, {"table": table2}, model={"backend": conv}, trainer={"steps": 2, "log_freq": 1})
    done = LightningTrainer().fit(run=run, output_dir=tmp_path / "run")
    losses = [row["loss"] for row in RunDirectory.open(done.path).metrics() if "loss" in row]
    assert len(losses) == 2 and losses[0] != losses[1]
    model = Foundation.from_checkpoint(tmp_path / "run")
    assert type(model.backend).__name__ == "ConvBackend" and model.config.backend == conv
    codes = model.predict_codes(torch.zeros(3, 96, 96, dtype=torch.uint8), "push the square")
    assert codes.shape == (2,) and model.config.cameras == (CAMERA,)
    # It starts another run, as every foundation model does.
    again = make_run(square_root, {"table": table2}, model={"backend": conv, "init_from": str(tmp_path / "run")})
    assert LightningTrainer().fit(run=again, output_dir=tmp_path / "again").checkpoint is not None


def test_a_backend_that_lacks_a_method_says_which(tmp_path):
    class Half(VLABackend):
        def setup(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"abstract class Half .*'loss_from_batch'"):
        Half(None)


def test_an_unknown_name_is_refused_before_anything_is_made(square_root, table2, tmp_path):
    from trainers import LightningTrainer

    run = make_run(square_root, {"table": table2}, model={"backend": "smol_latent_haed"})
    with pytest.raises(UserError, match="did you mean 'smol_latent_head'"):
        LightningTrainer().fit(run=run, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_that_the_registry_lists_are_backends_and_one_is_the_default():
    for name in BACKENDS:
        assert issubclass(backend_class(name), VLABackend)
    run = load_config(None, ["model.kind=foundation"]).config
    assert run.model.backend == DEFAULT_BACKEND
