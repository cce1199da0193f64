"""What all cells share, made once by the commands a user would type: data, quantizers, their latents, the foundation."""

import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from few_labels.design import EPISODES, IMAGE_SIZE, NOISE, RANDOM_QUANTIZERS, TASKS, Places, Tier
from hlrp.data import FrameWindows, WindowSource, read_dataset
from hlrp.laq import LAQ
from hlrp.laq.checkpoint import find_model, read_manifest, save
from hlrp.laq.metrics import random_laq
from hlrp.runs.manifest import MANIFEST, RunManifest

_PLACEMENT_WINDOWS = 512


def make_inputs(places: Places, tier: Tier) -> None:
    """Make what is missing; other processes wait. The same commands and seeds on another machine give the same cells."""
    places.root.mkdir(parents=True, exist_ok=True)
    with FileLock(places.root / ".inputs.lock"):
        _collect(places)
        _train("demo/laq", places.laq, places)
        _label(places.laq, places.latents, places)
        for number in range(RANDOM_QUANTIZERS):
            if not (places.random_laq(number) / "manifest.json").is_file():
                _random_quantizer(places, number)
            _label(places.random_laq(number), places.random_latents(number), places)
        if tier == "neural":
            _train("demo/foundation", places.foundation, places, "--latents", places.latents)


def _hlrp(*arguments: object) -> None:
    command = [sys.executable, "-m", "hlrp_cli.main", *map(str, arguments)]
    print("hlrp", *arguments, flush=True)
    subprocess.run(command, check=True)


def _collect(places: Places) -> None:
    if (places.data / "meta" / "info.json").is_file():
        return
    named = ["--env", "metaworld", "--tasks", ",".join(TASKS), "--episodes", EPISODES, "--image-size", IMAGE_SIZE]
    _hlrp("collect", *named, "--noise", NOISE, "--seed", 0, "--output", places.data)


def _train(config: str, run: Path, places: Places, *more: object) -> None:
    if (run / MANIFEST).is_file():
        if RunManifest.read(run / MANIFEST).status == "finished":
            return
        shutil.rmtree(run)
    _hlrp("train", "-c", config, "--dataset-root", places.data, *more, "--output-dir", run)


def _label(laq: Path, table: Path, places: Places) -> None:
    if not (table / "manifest.json").is_file():
        _hlrp("precompute-latents", "--laq", laq, "--dataset-root", places.data, "--output", table, "--vectors")


def _random_quantizer(places: Places, number: int) -> None:
    """A quantizer of the trained one's shape with random weights, its codebook placed among its own differences."""
    config = LAQ.from_checkpoint(find_model(places.laq)).config
    windows = FrameWindows(
        [WindowSource(read_dataset(None, places.data))],
        num_frames=config.num_frames,
        offset_seconds=config.offset_seconds,
        size=config.image_size,
        cache="disk",
        drop_invalid=True,
    )
    every = max(1, len(windows) // _PLACEMENT_WINDOWS)
    frames = windows.__getitems__(list(range(0, len(windows), every))[:_PLACEMENT_WINDOWS])["frames"]
    cameras = read_manifest(find_model(places.laq)).cameras
    save(random_laq(config, [frames.float() / 255], seed=number), places.random_laq(number), cameras=cameras)
