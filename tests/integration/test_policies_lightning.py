"""The three policies with `--trainer lightning`, and `hlrp parity` of one that has labels."""

import json
import math
import shutil
from pathlib import Path

import pytest
from command import assert_user_error, hlrp
from make_dataset import make_dataset
from make_labels import make_quantizer, make_table
from safetensors.torch import load_file

from hlrp.runs import RunDirectory
from hlrp.runs.code_effect import FIGURES

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
LATENT = "hlrp_action_expert_latent"
SIZES = ["model.chunk_size=6", "model.n_action_steps=4"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Dataset and table."""
    folder = tmp_path_factory.mktemp("labelled")
    dataset = make_dataset(folder / "squares", episodes=3, length=16, size=96)
    return dataset, make_table(dataset, make_quantizer(folder / "laq"), folder / "table")


def _train(dataset: Path, out: Path, policy: str, *more: str) -> list[str]:
    base = ["train", "--trainer", "lightning", "--policy", policy, "--dataset-root", str(dataset), "--device", "cpu"]
    keys = ["trainer.log_freq=1", "trainer.save_freq=3", "data.cache=ram", *SIZES]
    return [*base, "--batch-size", "4", "--output-dir", str(out), *keys, *more]


@pytest.mark.slow
def test_resumed_with_its_labels(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, table = labelled
    whole, run = tmp_path / "whole", tmp_path / "run"
    held_out = ["trainer.eval_split=0.3", "trainer.eval_steps=6", "model.own_codes_warmup=1"]
    done = hlrp(*_train(dataset, whole, LATENT, "--latents", str(table), "--steps", "6", *held_out), env=ONE_THREAD)
    assert done.code == 0, done.err
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "000006")
    done = hlrp("train", "--resume", run, env=ONE_THREAD)
    assert done.code == 0, done.err
    runs = [list(RunDirectory.open(r).metrics()) for r in (whole, run)]
    first, second = ([row for row in rows if "val_loss" not in row] for rows in runs)
    (held,), (held_again,) = ([row for row in rows if "val_loss" in row] for rows in runs)
    for figure in FIGURES:
        assert held[figure] == held_again[figure] and math.isfinite(held[figure])
    assert held["action_r2"] != held["action_r2_permuted"] and held["step"] == 6
    assert any("hardly depend on the codes" in warning for warning in RunDirectory.open(run).manifest.warnings)
    config = json.loads((run / "checkpoints/000006/pretrained_model/config.json").read_text())
    assert config["run_steps"] == 6
    kept = ("step", "loss", "grad_norm", "latent_loss", "latent_labelled", "latent_accuracy", "action_loss")
    assert [[row[k] for k in kept] for row in first] == [[row[k] for k in kept] for row in second]
    assert len(second) == 6 and all(row["latent_labelled"] > 0 and row["latent_loss"] > 0 for row in second)
    one, other = (load_file(r / "checkpoints/000006/pretrained_model/model.safetensors") for r in (whole, run))
    assert all(bool((one[k] == other[k]).all()) for k in one | other)
    assert other["updates"] == 6
    # The other policies take a start from it, or refuse what they have no use for.
    done = hlrp(*_train(dataset, tmp_path / "x", "hlrp_action_expert_direct", "--latents", str(table), "--steps", "2"))
    assert_user_error(done, "no use for latent labels")


@pytest.mark.slow
def test_parity_with_labels(labelled: tuple[Path, Path]) -> None:
    dataset, table = labelled
    flags = ["--dataset-root", str(dataset), "--latents", str(table), "--steps", "4", "--batch-size", "4", "--json"]
    done = hlrp("parity", "--policy", LATENT, *flags, "--cache", "ram", *SIZES, env=ONE_THREAD)
    assert done.code == 0, done.err
    result = done.json()
    assert result["policy"] == LATENT and result["worst"] <= 1e-5 and len(result["loss"]) == 4
