"""`hlrp import-video` as a person runs it: captions, a kill while processes work, a second launch, training on it."""

import json
import os
import shutil
import signal
import subprocess
import time
from fractions import Fraction
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


def _clip(path: Path, shade: int, codec: str = "libx264", rate: Fraction | int = FPS, pix_fmt: str = "yuv420p") -> None:
    options = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=0"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        for i in range(FRAMES):
            image = np.full((64, 64, 3), shade, np.uint8)
            image[:, i : i + 8] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))


def _packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 4 s, 64x64, of a bar that moves, and a file that is none; captions for two of them."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        _clip(folder / f"clip_{number}.mp4", 40 * number)
    (folder / "clip_9.mp4").write_text("no video\n" * 40)
    rows = ["file,caption,start,end", "clip_0.mp4,push the bar,0,2", "clip_0.mp4,pull the bar,2,", "clip_1,hold it,,"]
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.slow
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
    assert (said["copied"], said["encoded"], said["named_by_file"]) == (5, {}, 0)
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
    """What people have lies in one folder: other codecs, rates and depths; streams that can be copied are."""
    data, run, labelled, source = (tmp_path / name for name in ("data", "run", "labelled", "source"))
    shutil.copytree(videos, source)
    _clip(source / "hevc.mov", 30, "libx265")
    _clip(source / "vp9.webm", 60, "libvpx-vp9")
    _clip(source / "nearly.mp4", 90, rate=Fraction(10_000, 1001))
    _clip(source / "twice.mp4", 120, rate=20)
    _clip(source / "ten.mp4", 150, "libx265", pix_fmt="yuv420p10le")
    done = hlrp("import-video", source, "--output", data, "--skip-bad", env=ONE_THREAD)
    assert done.code == 0, done.err
    said = done.out.splitlines()
    assert said[0] == "left out clip_9: it holds text, no video"
    assert said[1].startswith(f"dataset  {data}: 9 episodes, 340 frames of 64x64 at 10 fps, in ")
    assert said[2:4] == ["copied   7 episodes, as they are in their files", "encoded  2 episodes once more"]
    assert said[4:6] == ["         1 of another rate or uneven times", "         1 pixels yuv420p10le"]
    assert said[6] == "task     9 episodes without a caption: the sentence is the file's name"
    assert said[7] == f"next     hlrp train --model laq --dataset-root {data}"
    rows = [json.loads(line) for line in (data / "meta/hlrp_import.jsonl").read_text().splitlines()]
    for row in rows:
        copy = data / f"videos/observation.images.video/chunk-000/file-{row['episode_index']:03d}.mp4"
        assert (_packets(copy) == _packets(next(source.glob(f"{row['source']}.*")))) == row["copied"], row
    training = ["train", "--trainer", "lightning", "--model", "laq", "--dataset-root", data, "--device", "cpu"]
    small = ["--steps", "2", "--output-dir", run, "model.preset=tiny", "model.image_size=48"]
    trained = hlrp(*training, *small, env=ONE_THREAD)
    assert trained.code == 0, trained.err
    on = ["--dataset-root", data, "--device", "cpu"]
    done = hlrp("precompute-latents", "--laq", run, *on, "--write-column", labelled, "--json", env=ONE_THREAD)
    assert done.code == 0, done.err
    assert (done.json()["complete"], done.json()["frames"]) == (True, 340)
    verified = hlrp("latents", "verify", done.json()["output"], "--laq", run, *on, "--json", env=ONE_THREAD)
    assert verified.code == 0 and verified.json()["different"] == 0, verified.err
    assert json.loads((labelled / "meta/info.json").read_text())["total_frames"] == 340
