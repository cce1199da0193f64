"""What all cells share, made once by the commands a user would type: data, quantizers, latents, foundation models."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from few_labels.design import (
    EPISODES,
    IMAGE_SIZE,
    NOISE,
    OTHER_EPISODES,
    OTHER_TASKS,
    RANDOM_QUANTIZERS,
    TASKS,
    Cell,
    Places,
    Tier,
)
from few_labels.trust import Situation
from hlrp.data import FrameWindows, WindowSource, read_dataset
from hlrp.files import sha256_of
from hlrp.laq import LAQ
from hlrp.laq.checkpoint import find_model, read_manifest, save
from hlrp.laq.metrics import random_laq
from hlrp.runs.manifest import MANIFEST, RunManifest

_PLACEMENT_WINDOWS = 512


def make_inputs(places: Places, tier: Tier) -> None:
    """Make what is missing, while other processes wait; the same commands and seeds on any machine."""
    if tier != "neural" and all(
        (places.random_latents(i) / "manifest.json").is_file() for i in range(RANDOM_QUANTIZERS)
    ):
        return  # these are made last of what this tier needs
    places.root.mkdir(parents=True, exist_ok=True)
    with FileLock(places.root / ".inputs.lock"):
        _collect(places.data, TASKS, EPISODES, places.camera_shake)
        if tier == "trust":
            return  # each of its draws has a quantizer of its own
        _train("demo/laq", places.laq, places.data)
        _label(places.laq, places.latents, places)
        for number in range(RANDOM_QUANTIZERS):
            if not (places.random_laq(number) / "manifest.json").is_file():
                _random_quantizer(places, number)
            _label(places.random_laq(number), places.random_latents(number), places)
        if tier == "neural":
            _train("demo/foundation", places.foundation, places.data, "--latents", places.latents)
            if not (places.shuffled_latents / "manifest.json").is_file():
                shuffle_table(places.latents, places.shuffled_latents, seed=0)
            _train("demo/foundation", places.shuffled_foundation, places.data, "--latents", places.shuffled_latents)


def make_own_latents(cell: Cell, places: Places, labelled: list[int]) -> None:
    """Train the quantizer that an arm has for itself, and label with it; the settings but for one are `demo/laq`'s."""
    # Any episode may be a labelled one, so none is held out.
    settings = {
        "pseudo_grounded": [
            f"model.labelled_episodes=[{','.join(map(str, labelled))}]",
            "trainer.eval_split=0",
            "trainer.eval_steps=0",
        ],
        "pseudo_features": ["model.feature_model=efficientnet_lite0", "model.space=features"],
    }.get(cell.arm)
    data = places.data
    if cell.arm == "pseudo_own":
        situation = Situation.of(cell.seed)
        settings = situation.training(labelled)
        if situation.video == "other":
            data = places.other_data
            _collect(data, OTHER_TASKS, OTHER_EPISODES)
    if settings is None:
        return
    with FileLock(places.root / f".{places.own_laq(cell).name}.lock"):
        _train("demo/laq", places.own_laq(cell), data, *settings)
        _label(places.own_laq(cell), places.own_latents(cell), places)


def _hlrp(*arguments: object) -> None:
    command = [sys.executable, "-m", "hlrp_cli.main", *map(str, arguments)]
    print("hlrp", *arguments, flush=True)
    subprocess.run(command, check=True)


def _collect(data: Path, tasks: Sequence[str], episodes: int, camera_shake: float = 0.0) -> None:
    if (data / "meta" / "info.json").is_file():
        return
    named = ["--env", "metaworld", "--tasks", ",".join(tasks), "--episodes", episodes, "--image-size", IMAGE_SIZE]
    shake = ["--camera-shake", camera_shake] if camera_shake else []
    _hlrp("collect", *named, "--noise", NOISE, *shake, "--seed", 0, "--output", data)


def _train(config: str, run: Path, data: Path, *more: object) -> None:
    if (run / MANIFEST).is_file():
        if RunManifest.read(run / MANIFEST).status == "finished":
            return
        shutil.rmtree(run)
    _hlrp("train", "-c", config, "--dataset-root", data, "--output-dir", run, *more)


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


def shuffle_table(source: Path, folder: Path, seed: int) -> None:
    """A copy of a latent table whose valid codes and vectors are dealt out anew among its valid frames."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf8"))
    names = sorted(path.name for path in source.glob("shard-*.safetensors"))
    shards = [load_file(source / name) for name in names]
    valid = torch.cat([shard["valid"] for shard in shards])
    rows = valid.all(1).nonzero().flatten()
    dealt = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    for key in {"codes", "vectors"} & shards[0].keys():
        values = torch.cat([shard[key] for shard in shards])
        values[rows] = values[dealt]
        for shard, part in zip(shards, values.split([len(s[key]) for s in shards]), strict=True):
            shard[key] = part.contiguous()
    for name, shard, entry in zip(names, shards, manifest["shards"], strict=True):
        with safe_open(source / name, framework="pt") as original:
            save_file(shard, unfinished / name, metadata=original.metadata())
        entry["sha256"] = sha256_of(unfinished / name)
    (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf8")
    unfinished.rename(folder)
