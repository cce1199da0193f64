"""`hlrp import-video` as a person runs it: captions, a kill while processes work, a second launch, training on it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from command import assert_user_error, hlrp, hlrp_argv
from interruptions import assert_gone, family_of

FPS = 10
FRAMES = 40
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 4 s, 64x64, of a bar that moves, and a file that is none; captions for two of them."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        with av.open(str(folder / f"clip_{number}.mp4"), "w") as container:
            stream = container.add_stream(
                "libx264", FPS, options={"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=0"}
            )
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for i in range(FRAMES):
                image = np.full((64, 64, 3), 40 * number, np.uint8)
                image[:, i : i + 8] = 220
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    (folder / "clip_9.mp4").write_text("no video\n" * 40)
    rows = ["file,caption,start,end", "clip_0.mp4,push the bar,0,2", "clip_0.mp4,pull the bar,2,", "clip_1,hold it,,"]
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def test_killed_with_processes_at_work_the_same_command_continues(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    command = ["import-video", videos, "--output", output, "--captions", videos / "captions.csv", "--task", "look"]
    assert_user_error(hlrp(*command), "clip_9: it holds text, no video", "--skip-bad")
    assert list(tmp_path.iterdir()) == []

    command += ["--skip-bad", "--workers", "2"]
    process = subprocess.Popen(hlrp_argv(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 200
    while not list((tmp_path / "dataset.partial/clips").glob("*.json")) and process.poll() is None:
        assert time.monotonic() < end, "no episode"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    family = family_of(process)
    assert_user_error(hlrp(*command), "another process is writing this folder")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert_gone(family)

    done = hlrp(*command, "--json", timeout=400)
    assert done.code == 0, done.err
    said = done.json()
    assert (said["output"], said["episodes"], said["frames"], said["fps"]) == (str(output), 5, 4 * FRAMES, FPS)
    assert (said["copied"], said["encoded"]) == (5, {})
    assert said["left_out"] == [["clip_9", "it holds text, no video"]]
    assert "5/5 episodes" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["dataset"]
    episodes = pq.read_table(next((output / "meta/episodes").rglob("*.parquet")))
    assert episodes["tasks"].to_pylist() == [["push the bar"], ["pull the bar"], ["hold it"], ["look"], ["look"]]
    assert episodes["length"].to_pylist() == [20, 20, 40, 40, 40]
    checked = hlrp("data", "check", output, "--json")
    assert checked.code == 0 and checked.json()["problems"] == []


@pytest.mark.slow
def test_a_quantizer_learns_from_it_and_labels_it(videos: Path, tmp_path: Path) -> None:
    data, run, labelled = tmp_path / "data", tmp_path / "run", tmp_path / "labelled"
    assert hlrp("import-video", videos, "--output", data, "--skip-bad", env=ONE_THREAD).code == 0
    training = ["train", "--trainer", "lightning", "--model", "laq", "--dataset-root", data, "--device", "cpu"]
    small = ["--steps", "2", "--output-dir", run, "model.preset=tiny", "model.image_size=48"]
    trained = hlrp(*training, *small, env=ONE_THREAD)
    assert trained.code == 0, trained.err
    on = ["--dataset-root", data, "--device", "cpu"]
    done = hlrp("precompute-latents", "--laq", run, *on, "--write-column", labelled, "--json", env=ONE_THREAD)
    assert done.code == 0, done.err
    assert (done.json()["complete"], done.json()["frames"]) == (True, 4 * FRAMES)
    verified = hlrp("latents", "verify", done.json()["output"], "--laq", run, *on, "--json", env=ONE_THREAD)
    assert verified.code == 0 and verified.json()["different"] == 0, verified.err
    assert json.loads((labelled / "meta/info.json").read_text())["total_frames"] == 4 * FRAMES
