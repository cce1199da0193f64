"""Tables and runs for the tests of `hlrp.foundation`."""

from pathlib import Path
from typing import Any

from hlrp.config import LightningRun

CAMERA = "observation.image"
TASKS = ("push the square", "pull the square")


def make_table(root: Path, laq: Path, output: Path, *, vectors: bool = True) -> Path:
    """A latent table of a dataset."""
    from hlrp.data import read_dataset
    from hlrp.latents.labelling import LabelRequest, label, load_encoder

    encoder, manifest = load_encoder(laq, "cpu", vectors=vectors)
    request = LabelRequest(
        read_dataset(None, root), None, output, manifest.config, manifest.weights_sha256, vectors=vectors
    )
    assert label(request, encoder, workers=1).complete
    return output


def make_run(
    root: Path | None,
    latents: dict[str, Any],
    *,
    model: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    **data: Any,
) -> LightningRun:
    """A run of a tiny foundation model; one episode of each task is held out."""
    place = {"root": str(root)} if root is not None else {}
    section = {"steps": 4, "batch_size": 6, "eval_split": 0.3, "seed": 3, "device": "cpu"} | (trainer or {})
    return LightningRun.model_validate(
        {
            "trainer_type": "lightning",
            "trainer": section,
            "model": {"kind": "foundation"} | (model or {}),
            "data": place | {"num_workers": 0, "cache": "ram"} | data,
            "latents": {k: str(v) for k, v in latents.items()},
        }
    )
