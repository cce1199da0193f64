"""Runs that were started from another one, which has gone since: they go on from their own checkpoint, exactly."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from command import hlrp
from make_dataset import make_dataset
from test_plan import TINY

from hlrp.config import load_config
from hlrp.errors import UserError
from hlrp.runs import RunDirectory
from trainers.lightning.trainer import LightningTrainer

KINDS: dict[str, list[str]] = {
    "laq": ["model.kind=laq", "model.preset=tiny", "model.image_size=24", "model.codebook_size=8"],
    "policy": ["model.policy_type=act", *(f"model.{k}={'null' if v is None else v}" for k, v in TINY.items())],
}


def _run(root: Path, out: Path, *arguments: str) -> Any:
    settings = ["trainer_type=lightning", "trainer.device=cpu", "trainer.steps=2", "trainer.save_freq=1"]
    named = [f"data.root={root}", f"output_dir={out}", "trainer.batch_size=4", "data.num_workers=0"]
    return load_config(None, [*settings, *named, *arguments]).config


@pytest.mark.parametrize("kind", ["laq", pytest.param("policy", marks=pytest.mark.slow)])
def test_a_run_goes_on_without_what_it_was_started_from(kind: str, tmp_path: Path) -> None:
    root, first, second = make_dataset(tmp_path / "data", episodes=2), tmp_path / "first", tmp_path / "second"
    LightningTrainer().fit(run=_run(root, first, *KINDS[kind]))
    model = KINDS[kind] if kind == "laq" else KINDS[kind][:1]
    LightningTrainer().fit(run=_run(root, second, *model, f"model.init_from={first}"))
    last = second / "checkpoints" / "000002"
    weights = [last / "training_state" / "lightning.safetensors", last / "pretrained_model" / "model.safetensors"]
    before = [path.read_bytes() for path in weights]
    shutil.rmtree(last)
    shutil.rmtree(first)
    saved = (second / "config.yaml").read_text()
    run: Any = load_config(second / "config.yaml").config
    assert "steps 1 to 2" in LightningTrainer.dry_run(run, resume=RunDirectory.open(second))
    if kind == "policy":  # the command looks at it before the trainer does
        done = hlrp("train", "--resume", second, env={"OMP_NUM_THREADS": "1"})
        assert done.code == 0, done.err
    else:
        LightningTrainer().resume(RunDirectory.open(second), run)
    assert [path.read_bytes() for path in weights] == before
    assert (second / "config.yaml").read_text() == saved, "it says what it was started from"
    with pytest.raises(UserError, match="first"):
        LightningTrainer().fit(run=_run(root, tmp_path / "third", *model, f"model.init_from={first}"))
