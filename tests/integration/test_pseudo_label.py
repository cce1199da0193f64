"""`hlrp pseudo-label` as a user runs it: from videos with few actions to a dataset that any policy trains on."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import Finished, assert_user_error, hlrp, hlrp_in_turn
from lerobot_runs import TINY_ACT, metrics_of, train_args
from make_dataset import make_dataset
from make_labels import make_quantizer

from hlrp.data import read_dataset, read_episodes
from hlrp.data.checks import dataset_problems
from hlrp.data.columns import ACTION_CONFIDENCE, ACTION_SOURCE, read_columns
from hlrp.data.pseudo_label_checks import pseudo_label_problems
from hlrp.data.renaming import rename_features
from hlrp.data.table_checks import Extremes
from hlrp.locks import FolderLock
from hlrp_cli.pseudo_label import pseudo_label

EPISODES, LENGTH, LABELLED = 4, 16, (0, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Dataset, quantizer, and a decoder of two labelled episodes, which tells the random actions badly."""
    folder = tmp_path_factory.mktemp("pseudo")
    dataset = make_dataset(folder / "squares", episodes=EPISODES, length=LENGTH, size=96)
    found = {"cache": folder / "cache", "dataset": dataset, "laq": make_quantizer(folder / "laq")}
    found |= {"decoder": folder / "decoder", "output": folder / "labelled"}
    flags = ["--laq", found["laq"], "--episodes", "0,2", "--output", found["decoder"], "--device", "cpu"]
    done = run(found, "fit-actions", "--dataset-root", dataset, *flags)
    assert done.code == 0, done.err
    return found


def run(made: dict[str, Path], *args: str | Path) -> Finished:
    return hlrp(*args, env={"HLRP_CACHE": str(made["cache"]), "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def labelled(made: dict[str, Path]) -> Finished:
    flags = ["--laq", made["laq"], "--output", made["output"], "--mask-below-floor", "--device", "cpu", "--json"]
    return run(made, "pseudo-label", "--decoder", made["decoder"], "--dataset-root", made["dataset"], *flags)


def test_every_episode_gets_actions(made: dict[str, Path], labelled: Finished) -> None:
    assert labelled.code == 0, labelled.err
    said = labelled.json()
    recorded = len(LABELLED) * LENGTH
    assert (said["complete"], said["output"], said["recorded_frames"]) == (True, str(made["output"]), recorded)
    assert said["predicted_frames"] + said["unknown_frames"] == (EPISODES - len(LABELLED)) * LENGTH
    assert "pseudo-labelling squares: 64/64 frames" in labelled.err
    old, new = (read_dataset(None, made[name]) for name in ("dataset", "output"))
    before, after = read_columns(old, ["action"])["action"], read_columns(new, ["action", ACTION_SOURCE])
    kept = after[ACTION_SOURCE] == 0
    assert kept.reshape(EPISODES, LENGTH).all(1).nonzero()[0].tolist() == list(LABELLED)
    assert (after["action"][kept] == before[kept]).all() and not (after["action"][~kept] == before[~kept]).all()
    assert len(list(made["cache"].glob("latents/*"))) == 1, "the latents that the decoder was fitted on are used again"
    manifest = json.loads((made["decoder"] / "manifest.json").read_text())
    low = [d["name"] for d in manifest["dimensions"] if d["r2"] < manifest["floor"]]
    assert low and said["masked"] == low


def test_the_decoders_camera_is_known_under_another_name(
    made: dict[str, Path],
    labelled: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A decoder of old recordings labels new ones, as if they were called as the old ones."""
    front, new = "observation.images.front", tmp_path / "new"
    rename_features(read_dataset(None, made["dataset"]), {"observation.image": front}, new)
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path / "cache"))
    flags = {"laq": made["laq"], "device": "cpu", "mask_below_floor": True}
    pseudo_label(made["decoder"], new, tmp_path / "out", **flags)
    line = f"camera {front} is taken for observation.image: there is one on each side"
    err = capsys.readouterr().err
    assert err.count(line) == 1 and "warning" not in err
    roots = [made["output"], tmp_path / "out"]
    old, again = (read_columns(read_dataset(None, root), ["action", ACTION_SOURCE]) for root in roots)
    assert all(np.array_equal(old[name], again[name]) for name in old)
    # An older decoder knows its dataset as a whole alone.
    shutil.copytree(made["decoder"], tmp_path / "older")
    manifest = json.loads((tmp_path / "older/manifest.json").read_text())
    del manifest["actions_sha256"]
    (tmp_path / "older/manifest.json").write_text(json.dumps(manifest))
    pseudo_label(tmp_path / "older", new, tmp_path / "all", **flags)
    assert f"warning: all actions recorded in {new} are replaced by predictions" in capsys.readouterr().err
    assert (read_columns(read_dataset(None, tmp_path / "all"), [ACTION_SOURCE])[ACTION_SOURCE] > 0).all()


def test_mistakes_are_one_message(made: dict[str, Path], labelled: Finished, tmp_path: Path) -> None:
    whole = ["--decoder", made["decoder"], "--dataset-root", made["dataset"], "--output", tmp_path / "out"]
    other = make_quantizer(tmp_path / "other", seed=1)
    (table,) = made["cache"].glob("latents/*")
    cases = [
        (whole, ["nothing says where the latents are", "--latents"]),
        ([*whole, "--laq", made["laq"]], ["below the decoder's floor", "--mask-below-floor", "--suggest"]),
        ([*whole, "--laq", made["laq"], "--latents", table], ["exclude each other"]),
        ([*whole, "--latents", table, "--skip-bad"], ["--skip-bad has no effect without --laq"]),
        ([*whole, "--laq", other, "--mask-below-floor"], ["another quantizer", "--laq has", "the decoder"]),
        ([*whole[:4], "--output", tmp_path, "--latents", table, "--mask-below-floor"], ["is not this dataset"]),
        (["--decoder", made["laq"], *whole[2:], "--latents", table], ["not an action decoder"]),
    ]
    os.environ["HLRP_CACHE"] = str(made["cache"])
    try:
        with FolderLock(made["output"].parent, part=f"-{made['output'].name}-0-of-1"):
            asked = [*whole[:4], "--output", made["output"], "--latents", table, "--mask-below-floor"]
            cases.append((asked, ["another process is writing", str(made["output"])]))
            done = hlrp_in_turn([["pseudo-label", *arguments] for arguments, _ in cases])
    finally:
        del os.environ["HLRP_CACHE"]
    for (_, mentions), found in zip(cases, done, strict=True):
        assert_user_error(found, *mentions)
    assert not (tmp_path / "out").exists()


def test_the_dataset_is_good_and_damaged_columns_are_found(made: dict[str, Path], labelled: Finished) -> None:
    info = read_dataset(None, made["output"])
    assert not [p for p in dataset_problems(info) if p.fatal]
    alone = {k: v for k, v in info.features.items() if k != ACTION_CONFIDENCE}
    said = [p.message for p in dataset_problems(replace(info, features=alone), by_lerobot=False) if p.fatal]
    assert said == [
        f"the dataset has {ACTION_SOURCE!r}, but no {ACTION_CONFIDENCE!r}: one says nothing without the other"
    ]
    one = np.ones(1)
    found = {ACTION_SOURCE: Extremes(0 * one, 3 * one), ACTION_CONFIDENCE: Extremes(0 * one, 1.5 * one)}
    assert [p.message for p in pseudo_label_problems(info, found)] == [
        f"{ACTION_SOURCE!r} holds numbers from 0 to 3, they lie from 0 to 2",
        f"{ACTION_CONFIDENCE!r} holds numbers from 0 to 1.5, they lie from 0 to 1",
    ]


def train_act(made: dict[str, Path], root: Path, out: Path) -> dict[str, list[float]]:
    """Two steps of a tiny ACT in each trainer; gives the losses."""
    losses = {}
    for trainer in ("lerobot", "lightning"):
        args = train_args(root, out / trainer, "act", 2, "--trainer", trainer, *TINY_ACT, "trainer.log_freq=1")
        done = run(made, *args)
        assert done.code == 0, done.err
        assert "policy 'act' learns all actions alike" in " ".join(done.err.split())
        losses[trainer] = [row["loss"] for row in metrics_of(out / trainer).values()]
        config = json.loads((out / trainer / "checkpoints/last/pretrained_model/config.json").read_text())
        assert set(config["output_features"]) == {"action"}
        assert not [name for name in config["input_features"] if not name.startswith("observation.")]
    return losses


@pytest.mark.slow
def test_any_policy_of_lerobot_trains_on_it_alike_in_both_trainers(
    made: dict[str, Path], labelled: Finished, tmp_path: Path
) -> None:
    losses = train_act(made, made["output"], tmp_path)
    assert losses["lerobot"] == pytest.approx(losses["lightning"], rel=1e-5)
    assert len(losses["lerobot"]) == 2 and all(0 < loss < 200 for loss in losses["lerobot"])


@pytest.mark.slow
def test_a_real_robot_with_three_labelled_episodes(g1_root: Path, tmp_path: Path) -> None:
    """A map that is not to be trusted is refused and masked; ACT trains on the result, with a warning."""
    made = {"cache": tmp_path / "cache"}
    common = [
        "--laq",
        make_quantizer(tmp_path / "laq", camera="observation.images.cam_high"),
        "--dataset-root",
        g1_root,
    ]
    fitted = run(made, "fit-actions", *common, "--episodes", "5-7", "--output", tmp_path / "decoder", "--json")
    assert fitted.code == 0, fitted.err
    joints = fitted.json()["dimensions"]
    assert [d["name"] for d in joints] == [f"joint_{i}" for i in range(26)]
    assert all(d[rival] is not None for d in joints for rival in ("r2", "no_motion", "replay"))
    write = ["pseudo-label", *common, "--decoder", tmp_path / "decoder", "--output", tmp_path / "out"]
    assert_user_error(run(made, *write), "of 26 dimensions of the action lie below", "--mask-below-floor")
    done = run(made, *write, "--mask-below-floor", "--json")
    assert done.code == 0, done.err
    said, info = done.json(), read_dataset(None, g1_root)
    assert (said["recorded_frames"], said["predicted_frames"], said["unknown_frames"]) == (1156, 1871, 0)
    start = int(read_episodes(info).start[5])
    before, after = (read_columns(i, ["action"])["action"] for i in (info, read_dataset(None, tmp_path / "out")))
    assert after[start:].tobytes() == before[start:].tobytes() and not (after[:start] == before[:start]).all()
    losses = train_act(made, tmp_path / "out", tmp_path)
    assert losses["lerobot"] == pytest.approx(losses["lightning"], rel=1e-5)


@pytest.mark.slow
def test_both_trainers_count_actions_by_their_confidence(made: dict[str, Path], labelled: Finished) -> None:
    flags = ["--dataset-root", made["output"], "--steps", "4", "--batch-size", "4", "--json"]
    sizes = ["model.chunk_size=6", "model.n_action_steps=4"]
    done = run(made, "parity", "--policy", "hlrp_action_expert_direct", *flags, *sizes)
    assert done.code == 0, done.err
