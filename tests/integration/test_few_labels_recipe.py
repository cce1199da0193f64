"""From video to a policy by commands, with latents of two transitions, as in `configs/lightning`."""

import json
from pathlib import Path

import pytest
from command import hlrp_in_turn
from make_dataset import make_dataset
from safetensors.torch import load_file

from hlrp.runs import RunDirectory

MODES, STEPS = ("codes", "vectors"), 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of policies that codes and continuous latents lead to; the first two of six episodes are labelled."""
    folder = tmp_path_factory.mktemp("recipe")
    tasks = ("push the square", "pull the square")
    root = make_dataset(folder / "squares", episodes=6, length=20, size=96, tasks=tasks)
    common = ["--dataset-root", root, "--device", "cpu", "--steps", str(STEPS), "--batch-size", "4"]
    small = ["model.preset=tiny", "model.image_size=24", "model.codebook_size=8", "model.code_seq_len=2"]
    laq, table = ["--output-dir", folder / "laq", "data.num_frames=3", "data.offset_seconds=0.2"], folder / "table"
    commands: list[list[str | Path]] = [
        ["train", "--model", "laq", *common, *small, *laq],
        ["precompute-latents", "--laq", folder / "laq", "--dataset-root", root, "--output", table, "--vectors"],
    ]
    few = ["--latents", table, "--episodes", "0-1", "trainer.log_freq=1", "model.true_latents=0.5"]
    for mode in MODES:
        base, out = folder / f"foundation_{mode}", folder / mode
        commands += [
            ["train", "--model", "foundation", *common, "--latents", table, "--output-dir", base, f"model.mode={mode}"],
            ["train", "-c", "lightning/vla_direct_few_labels", *common, *few, "--init-from", base, "--output-dir", out],
        ]
    for done in hlrp_in_turn(commands):
        assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_three_frames_from_video_to_a_policy(mode: str, runs: Path) -> None:
    run = RunDirectory.open(runs / mode)
    rows = [row for row in run.metrics() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["action_labelled"] == 1 and row["latent_labelled"] > 0 for row in rows)
    latest = run.latest()
    assert latest is not None
    config = json.loads((latest.pretrained / "config.json").read_text())
    assert (config["num_frames"], config["code_seq_len"], config["latent_mode"]) == (3, 2, mode)
    assert (config["labelled_episodes"], config["run_steps"], config["vlm"]) == ([0, 1], STEPS, "frozen")
    weights = load_file(latest.pretrained / "model.safetensors")
    width = {"codes": 64, "vectors": config["vector_dim"]}[mode]
    # The decoder reads both transitions' positions, and the state.
    assert weights["decoder.net.0.weight"].shape[1] == 2 * 2 * width + 2
    assert int(weights["updates"]) == STEPS
