"""`hlrp precompute-latents` and `hlrp latents verify` as a user runs them, on the installed commands."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from command import Finished, assert_user_error, hlrp, hlrp_in_turn

from hlrp.data import read_dataset
from hlrp.data.renaming import rename_features
from hlrp.data.video_backends import require_backend
from hlrp.errors import UserError
from hlrp.laq import LAQ, LAQConfig
from hlrp_cli.precompute_latents import precompute_latents

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
FRAMES = 2 * 24


@pytest.fixture(scope="module")
def laq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained quantizer for windows of 3 frames."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("laq") / "model"
    config = LAQConfig(image_size=24, dim=32, heads=2, num_frames=3, offset_seconds=0.2, code_dim=8)
    LAQ(config).save(folder, cameras=["observation.image"])
    return folder


def precompute(*args: str | Path, **env: str) -> Finished:
    return hlrp("precompute-latents", *args, "--device", "cpu", env=ONE_THREAD | env)


def test_from_video_to_a_verified_table_and_a_labelled_dataset(laq: Path, toy_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "labelled"
    done = precompute("--laq", laq, "--dataset-root", toy_root, "--write-column", out, "--vectors", "--json")
    assert done.code == 0, done.err
    said = done.json()
    table = laq / "latents" / toy_root.name
    assert (said["complete"], said["frames"], said["kept"], said["bad_episodes"]) == (True, FRAMES, 0, [])
    assert (said["output"], said["dataset"]) == (str(table), str(out))
    assert f"{FRAMES}/{FRAMES} frames" in done.err and "ETA" in done.err
    features = json.loads((out / "meta" / "info.json").read_text())["features"]
    assert features["latent_codes"] == {"dtype": "int64", "shape": [2, 4], "names": None}
    assert features["latent_valid"]["shape"] == [2]

    again = precompute("--laq", laq, "--dataset-root", toy_root, "--vectors")
    assert again.code == 0 and f"{FRAMES} were there" in again.out

    good = hlrp("latents", "verify", table, "--dataset-root", toy_root, "--laq", laq, "--device", "cpu", "--json")
    assert good.code == 0, good.err
    assert good.json()["ok"] and good.json()["different"] == 0 and good.json()["sampled"] > 0

    # Labels of the same frames without vectors are of another kind; both sides are named.
    vectors = "width of the continuous latents: the folder has 8, asked for is None"
    assert_user_error(precompute("--laq", laq, "--dataset-root", toy_root), vectors, str(table))

    shard = table / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    bad = hlrp("latents", "verify", table, "--dataset-root", toy_root)
    assert bad.code == 1 and "wrong  shard-00000.safetensors has SHA-256" in bad.out and "Traceback" not in bad.err
    assert_user_error(hlrp("latents", "verify", tmp_path, "--dataset-root", toy_root), "no latent table")


def test_processes_of_a_launcher_share_the_work(laq: Path, toy_root: Path, tmp_path: Path) -> None:
    args = ("--laq", laq, "--dataset-root", toy_root, "--json", "--output")
    alone = precompute(*args, tmp_path / "alone")
    assert alone.code == 0, alone.err
    # Two short episodes are one shard: the first of two processes has none, and none of them waits for another.
    shared = [precompute(*args, tmp_path / "shared", RANK=str(r), WORLD_SIZE="2") for r in range(2)]
    assert [d.code for d in shared] == [0, 0]
    assert [d.json()["frames"] for d in shared] == [0, FRAMES]
    assert [d.json()["complete"] for d in shared] == [False, True]
    for path in (tmp_path / "alone").iterdir():
        assert (tmp_path / "shared" / path.name).read_bytes() == path.read_bytes()


def test_how_videos_are_decoded_is_asked_for_and_kept(laq: Path, toy_root: Path, tmp_path: Path) -> None:
    args = ("--laq", laq, "--dataset-root", toy_root, "--output")
    usual = precompute(*args, tmp_path / "usual", "--decode-workers", "3", "--json")
    assert usual.code == 0, usual.err
    assert "PyAV" in json.loads((tmp_path / "usual/manifest.json").read_text())["decoded_by"][0]
    other = precompute(*args, tmp_path / "other", "--video-backend", "torchcodec")
    try:
        require_backend("torchcodec")
    except UserError as error:
        assert_user_error(other, error.what, "--video-backend")
        assert not (tmp_path / "other").exists()
    else:
        assert other.code == 0, other.err
        manifest = json.loads((tmp_path / "other/manifest.json").read_text())
        assert manifest["decoded_by"][0].startswith("torchcodec ")
        assert manifest["identity"]["video_backend"] == "torchcodec"


def test_that_another_camera_than_the_trained_one_is_labelled_is_said(
    laq: Path, toy_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)  # LeRobot, where a test has it log, has every library say all
    cam = "observation.images.cam"
    rename_features(read_dataset(None, toy_root), {"observation.image": cam}, tmp_path / "data")
    precompute_latents(laq, tmp_path / "data", output=tmp_path / "table", device="cpu")
    [line] = caplog.messages
    assert f"labels {cam}," in line and "trained on observation.image;" in line and "--camera" in line
    caplog.clear()
    for more in ({"camera": "cam"}, {"rank": "1"}):
        monkeypatch.setenv("RANK", more.pop("rank", "0"))
        monkeypatch.setenv("WORLD_SIZE", "2")
        precompute_latents(laq, tmp_path / "data", output=tmp_path / "again", device="cpu", **more)
    assert json.loads((tmp_path / "again/manifest.json").read_text())["identity"]["camera"] == cam
    assert caplog.messages == []


def test_a_broken_video(laq: Path, toy_root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(toy_root, broken)
    video = next(broken.rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[:200])
    args = ("--laq", laq, "--dataset-root", broken, "--output", tmp_path / "table")
    done = precompute(*args)
    assert done.code == 1 and "Traceback" not in done.err, done.err
    assert done.err.count("error:") == 1 and "episode 0" in done.err and str(video) in done.err
    skipped = precompute(*args, "--skip-bad", "--json")
    assert skipped.code == 0, skipped.err
    assert skipped.json()["bad_episodes"] == [0, 1] and skipped.json()["complete"]
    assert "skipped episode 1" in skipped.err
    verified = hlrp("latents", "verify", tmp_path / "table", "--dataset-root", broken)
    assert verified.code == 0, verified.out


def test_mistakes_are_one_message(laq: Path, toy_root: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    whole = ["--laq", laq, "--dataset-root", toy_root]
    cases = [
        (["--laq", laq], ["--dataset-root"]),
        (["--laq", tmp_path, "--dataset-root", toy_root], ["no latent action quantizer"]),
        ([*whole, "--camera", "observation.imgae"], ["did you mean 'observation.image'?"]),
        ([*whole, "--copy"], ["--write-column"]),
        ([*whole, "--write-column", taken], ["--write-column", "is not this dataset"]),
    ]
    done = hlrp_in_turn([["precompute-latents", *arguments, "--device", "cpu"] for arguments, _ in cases])
    for (_, mentions), found in zip(cases, done, strict=True):
        assert_user_error(found, *mentions)
    assert_user_error(precompute("--laq", laq, "--dataset-root", toy_root, RANK="2", WORLD_SIZE="2"), "RANK=2")
