"""The three policies in LeRobot's own commands: trained, resumed, refused, rolled out."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import assert_user_error, hlrp, hlrp_in_turn
from interruptions import assert_gone, family_of, start, wait_for_rows
from make_dataset import make_dataset
from make_labels import make_quantizer, make_table

from hlrp.runs import RunDirectory
from hlrp.runs.code_effect import FIGURES

CAMERA = "observation.image"
LATENT = "hlrp_action_expert_latent"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Dataset, quantizer, table."""
    folder = tmp_path_factory.mktemp("labelled")
    dataset = make_dataset(folder / "squares", episodes=3, length=16, size=96, action_dim=4)
    laq = make_quantizer(folder / "laq")
    return dataset, laq, make_table(dataset, laq, folder / "table")


def _train(dataset: Path, out: Path, policy: str, *more: str) -> list[str]:
    base = ["train", "--trainer", "lerobot", "--policy", policy, "--dataset-root", str(dataset), "--device", "cpu"]
    return [*base, "--batch-size", "4", "--output-dir", str(out), "data.num_workers=0", "trainer.log_freq=1", *more]


def _actions_elsewhere(pretrained: Path) -> str:
    """The actions of a policy in a process of its own, to the last bit."""
    code = (
        "import sys, torch\n"
        "from lerobot.utils.import_utils import register_third_party_plugins\n"
        "register_third_party_plugins()\n"
        "from lerobot.policies.factory import get_policy_class\n"
        f"policy = get_policy_class({LATENT!r}).from_pretrained(sys.argv[1])\n"
        "g = torch.Generator().manual_seed(0)\n"
        "batch = {'observation.image': torch.rand(2, 3, 96, 96, generator=g), 'task': ['push', 'pull'],\n"
        "         'observation.state': torch.randn(2, 2, generator=g)}\n"
        "torch.set_num_threads(1)\n"
        "actions = policy.predict_action_chunk(batch, noise=torch.randn(2, 16, 4, generator=g))\n"
        "print(actions.double().flatten().tolist())\n"
    )
    argv = [sys.executable, "-c", code, str(pretrained)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=200)
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_killed_and_resumed_with_its_labels(labelled: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """SIGKILL after a checkpoint: the resumed run has the losses, labels and weights of one that was left alone."""
    dataset, _, table = labelled
    whole, out = tmp_path / "whole", tmp_path / "killed"
    held_out = ["trainer.eval_split=0.3", "trainer.eval_steps=12"]
    asked = ["--latents", str(table), "--steps", "12", "trainer.save_freq=4", *held_out]
    done = hlrp(*_train(dataset, whole, LATENT, *asked), env=ONE_THREAD)
    assert done.code == 0, done.err
    process = start(_train(dataset, out, LATENT, *asked), env=ONE_THREAD)
    wait_for_rows(out, 5, process)
    family = family_of(process)
    process.kill()
    process.communicate()
    assert_gone(family)
    # The worker saw that nobody reads any more, and saved; take that away to have what a power cut leaves.
    for later in (c for c in RunDirectory.open(out).checkpoints() if c.step > 4):
        shutil.rmtree(later.path)
    done = hlrp("train", "--resume", out, env=ONE_THREAD)
    assert done.code == 0, done.err
    *rows, held = RunDirectory.open(out).metrics()
    *expected, held_of_whole = RunDirectory.open(whole).metrics()
    assert [row["step"] for row in rows] == list(range(1, 13))
    # With the held-out loss, how far the actions depend on the codes; a policy that has hardly learned says so.
    for figure in FIGURES:
        assert held[figure] == held_of_whole[figure] and math.isfinite(held[figure])
    assert held["action_r2"] != held["action_r2_permuted"] and held["eval_loss"] > 0
    assert any("hardly depend on the codes" in warning for warning in RunDirectory.open(out).manifest.warnings)
    shown = hlrp("runs", "show", whole)
    assert f"codes       R2 of the actions on held-out data {held['action_r2']:.2f}, " in shown.out
    assert all(row["latent_labelled"] > 0 and row["latent_loss"] > 0 for row in rows)
    for key in ("loss", "grad_norm", "latent_loss", "latent_accuracy", "action_loss"):
        assert [row[key] for row in rows] == [row[key] for row in expected], key
    latest = RunDirectory.open(out).latest()
    assert latest is not None
    weights = [run / "checkpoints/000012/pretrained_model/model.safetensors" for run in (out, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    config = json.loads((latest.pretrained / "config.json").read_text())
    assert config["run_steps"] == 12 and config["own_codes_steps"] is None
    assert config["latent_table"] == str(table) and config["codebook_size"] == 8
    steps = json.loads((latest.pretrained / "policy_preprocessor.json").read_text())["steps"]
    (labels,) = (step["config"] for step in steps if step.get("registry_name") == "hlrp_latent_labels")
    assert labels["table"] == str(table) and labels["meaning"]["codebook_size"] == 8
    assert _actions_elsewhere(latest.pretrained) == _actions_elsewhere(latest.pretrained)


@pytest.mark.slow
def test_stock_lerobot_train_with_labels_made_while_training(labelled: tuple[Path, Path, Path], tmp_path: Path) -> None:
    dataset, laq, _ = labelled
    arguments = {
        "policy.type": "hlrp_vla_direct",
        "policy.latent_laq": laq,
        "policy.latent_offset_frames": 2,
        "policy.decoder": "both",
        "policy.decoder_laq": laq,
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "dataset.repo_id": dataset.name,
        "dataset.root": dataset,
        "steps": 2,
        "batch_size": 4,
        "num_workers": 0,
        "log_freq": 1,
        "output_dir": tmp_path / "out",
    }
    argv = [str(Path(sys.executable).with_name("lerobot-train")), *(f"--{k}={v}" for k, v in arguments.items())]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    steps = json.loads((saved / "policy_preprocessor.json").read_text())["steps"]
    assert any(step.get("registry_name") == "hlrp_latent_labels" for step in steps)


def test_labels_that_do_not_fit_are_one_message(
    labelled: tuple[Path, Path, Path], toy_root: Path, tmp_path: Path
) -> None:
    _, _, table = labelled
    asked = ["--latents", str(table), "--steps", "2"]
    other, none = hlrp_in_turn(
        [_train(toy_root, tmp_path / "a", LATENT, *asked), _train(toy_root, tmp_path / "b", "act", *asked)]
    )
    assert_user_error(other, "the latent table does not fit", "dataset: the table has")
    assert_user_error(none, "'act' has no use for latent labels")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "camera", [pytest.param("observation.images.corner2", marks=pytest.mark.slow), "observation.image"]
)
def test_rolled_out_by_stock_lerobot_eval(camera: str, tmp_path: Path) -> None:
    """A policy of what `hlrp collect` records needs nothing more; one of older recordings the map that a page shows."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    import lerobot_policy_felix_bundle as bundle

    meaning = {"codebook_size": 8, "code_seq_len": 2, "num_frames": 2, "offset_seconds": 0.1, "laq_sha256": "a" * 64}
    config = bundle.HLRPActionExpertLatentConfig(
        device="cpu",
        push_to_hub=False,
        num_steps=2,
        input_features={
            camera: PolicyFeature(FeatureType.VISUAL, (3, 96, 96)),
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
        latent_table="/no/such/table",
        **meaning,
    )
    stats = {k: {"mean": torch.zeros(4), "std": torch.ones(4)} for k in ("observation.state", "action")}
    folder = tmp_path / "policy"
    get_policy_class(LATENT)(config).save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=stats):
        processor.save_pretrained(folder)
    arguments = {
        "policy.path": folder,
        "policy.device": "cpu",
        "env.type": "metaworld_light",
        "env.task": "reach-v3",
        "env.episode_length": 10,
        "eval.n_episodes": 1,
        "eval.batch_size": 1,
        "output_dir": tmp_path / "eval",
    }
    if camera == "observation.image":
        page = (Path(__file__).parents[2] / "docs" / "simulators.md").read_text(encoding="utf8")
        [arguments["rename_map"]] = re.findall("--rename_map='(.*)'", page)
    argv = [str(Path(sys.executable).with_name("lerobot-eval")), *(f"--{k}={v}" for k, v in arguments.items())]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False, env=os.environ.copy())
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "eval" / "eval_info.json").is_file()
