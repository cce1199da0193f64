"""Start to first step and memory at 10^4, 10^6 and 10^7 frames, for both trainers, LAQ training and labelling.

    python scripts/bench_scale.py [--frames 10000 10000000] [--only lightning laq] [--folder DIR] [--open-files N]

The datasets are synthetic: their tables have every row (state, action, times, 100 tasks, episodes of 100 frames), but
the videos, of a hundred episodes each, are links to one small one. So the tables and the number of files are those of a
real dataset; nothing is measured of reading much video.

Of every kind of work: seconds from the start to the first row of metrics (of labelling: to the first shard), what cores
worked until then, in seconds, and the peaks of the memory of all its processes, in MiB: `own` is what no file backs,
`all` is everything that is resident, pages of mapped files included, which the system takes back when it needs them.
Labelling ends after its first shard.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from benchmark import markdown

BIN = Path(sys.executable).parent
CAMERA, EPISODE, FPS, TASKS = "observation.image", 100, 10, 100
STATE, ACTION = "observation.state", "action"
_STATISTICS = ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99")
_VIDEO_EPISODES = 100
_FILE_ROWS = 1_000_000
_ACT = ["dim_model=32", "n_heads=2", "dim_feedforward=32", "n_encoder_layers=1", "n_vae_encoder_layers=1"]
_ACT += ["chunk_size=10", "n_action_steps=10", "pretrained_backbone_weights=null"]


def synthesise(root: Path, frames: int) -> Path:
    """A dataset whose tables have ``frames`` rows and whose videos are all the same one."""
    if (root / "meta/info.json").is_file():
        return root
    record(root)
    info = json.loads((root / "meta/info.json").read_text())
    episodes = frames // EPISODE
    for table in (root / "data").rglob("*.parquet"):
        table.unlink()
    for number, first in enumerate(range(0, frames, _FILE_ROWS)):
        path = root / info["data_path"].format(chunk_index=0, file_index=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        # LeRobot writes a row group for every episode.
        pq.write_table(_rows(first, min(first + _FILE_ROWS, frames)), path, row_group_size=EPISODE)
    tasks = [f"put the block on place {number}" for number in range(TASKS)]
    index = pd.Index(tasks, name="task")
    pd.DataFrame({"task_index": np.arange(TASKS)}, index=index).to_parquet(root / "meta/tasks.parquet")
    [video] = (root / "videos").rglob("*.mp4")
    for number in range(1, -(-episodes // _VIDEO_EPISODES)):
        place = {"video_key": CAMERA, "chunk_index": 0, "file_index": number}
        os.link(video, root / info["video_path"].format(**place))
    [old] = (root / "meta/episodes").rglob("*.parquet")
    # And one for every ten episodes in their own table.
    pq.write_table(_episodes(np.arange(episodes), tasks), old, row_group_size=10)
    info |= {
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": TASKS,
        "splits": {"train": f"0:{episodes}"},
    }
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))
    return root


def record(root: Path) -> None:
    """The episodes of one video, by LeRobot's own writer."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        STATE: {"dtype": "float32", "shape": (7,), "names": None},
        ACTION: {"dtype": "float32", "shape": (7,), "names": None},
        CAMERA: {"dtype": "video", "shape": (48, 48, 3), "names": ["height", "width", "channel"]},
    }
    dataset = LeRobotDataset.create(repo_id=root.name, fps=FPS, root=root, features=features)
    rng = np.random.default_rng(0)
    for _ in range(_VIDEO_EPISODES):
        for moment in range(EPISODE):
            picture = np.full((48, 48, 3), 40, np.uint8)
            picture[8:16, moment % 40 : moment % 40 + 8] = 220
            numbers = rng.uniform(-1, 1, (2, 7)).astype(np.float32)
            dataset.add_frame({CAMERA: picture, STATE: numbers[0], ACTION: numbers[1], "task": "put the block"})
        dataset.save_episode()
    dataset.finalize()


def _rows(first: int, end: int) -> pa.Table:
    index = np.arange(first, end)
    rng = np.random.default_rng(first)
    columns: dict[str, object] = {}
    for name in (STATE, ACTION):
        flat = pa.array(rng.uniform(-1, 1, len(index) * 7).astype(np.float32))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, 7).cast(pa.list_(pa.float32()))
    columns |= {
        "timestamp": (index % EPISODE / FPS).astype(np.float32),
        "frame_index": index % EPISODE,
        "episode_index": index // EPISODE,
        "index": index,
        "task_index": index // EPISODE % TASKS,
    }
    return pa.table(columns)


def _episodes(number: "np.ndarray[tuple[int], np.dtype[np.int64]]", tasks: list[str]) -> pa.Table:
    length = EPISODE / FPS
    begin = number % _VIDEO_EPISODES * length
    same = np.zeros(len(number), np.int64)
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(7 * len(number))), 7).cast(pa.list_(pa.float64()))
    return pa.table(
        {
            "episode_index": number,
            "tasks": pa.array([[tasks[i]] for i in (number % TASKS).tolist()]),
            "length": same + EPISODE,
            "data/chunk_index": same,
            "data/file_index": number * EPISODE // _FILE_ROWS,
            "dataset_from_index": number * EPISODE,
            "dataset_to_index": (number + 1) * EPISODE,
            f"videos/{CAMERA}/chunk_index": same,
            f"videos/{CAMERA}/file_index": number // _VIDEO_EPISODES,
            f"videos/{CAMERA}/from_timestamp": begin,
            f"videos/{CAMERA}/to_timestamp": begin + length,
            "meta/episodes/chunk_index": same,
            "meta/episodes/file_index": same,
            **{f"stats/{name}/{kind}": numbers for name in (STATE, ACTION) for kind in _STATISTICS},
        }
    )


class Cost(NamedTuple):
    """Of one run: seconds to what was waited for, of the clock and of all cores together, and peaks in MiB."""

    first_s: float
    core_s: float
    own_mib: float
    all_mib: float


def watch(command: list[str], done: Callable[[], bool], *, log: Path) -> Cost:
    """Run a command until it ends or ``done``; the peaks are those of it and all its children together."""
    began, first, worked = time.monotonic(), 0.0, 0.0
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        own = everything = 0
        while process.poll() is None:
            parts = [_memory(p.pid) for p in [psutil.Process(process.pid), *_children(process.pid)]]
            own, everything = max(own, sum(p[0] for p in parts)), max(everything, sum(p[1] for p in parts))
            if not first and done():
                first, worked = time.monotonic() - began, _core_seconds(process.pid)
                if "precompute-latents" in command:
                    os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.2)
    if not first:
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}:\n{log.read_text()[-2000:]}")
    return Cost(first, worked, own / 1024, everything / 1024)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _core_seconds(pid: int) -> float:
    """What a process, those that it has waited for, and its children have worked."""
    times = psutil.Process(pid).cpu_times()
    return sum(times[:4]) + sum(sum(child.cpu_times()[:4]) for child in _children(pid))


def _memory(pid: int) -> tuple[int, int]:
    """What no file backs, and all that is resident, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in lines)
        if "Rss" in name or name == "VmRSS"
    }
    return found.get("RssAnon", 0) + found.get("RssShmem", 0), found.get("VmRSS", 0)


def measure(kind: str, data: Path, folder: Path, laq: Path | None) -> Cost:
    """The cost of one kind of work."""
    run = folder / "run"
    train = [str(BIN / "hlrp"), "train", "--dataset-root", str(data), "--steps", "3", "--batch-size", "8"]
    train += ["--device", "cpu", "--output-dir", str(run), "trainer.log_freq=1", "data.num_workers=0"]
    act = ["--policy", "act", *(f"model.{field}" for field in _ACT)]
    commands = {
        "lerobot": [*train, "--trainer", "lerobot", *act],
        "lightning": [*train, "--trainer", "lightning", *act],
        "laq": [*train, "--model", "laq", "model.preset=tiny", "data.offset_seconds=0.2"],
        "label": [str(BIN / "hlrp"), "precompute-latents", "--laq", str(laq), "--dataset-root", str(data)],
    }
    if kind == "label":
        command = [*commands[kind], "--output", str(run), "--device", "cpu"]
        return watch(
            command,
            lambda: any(run.glob("shard-*")),
            log=folder / "log",
        )
    return watch(commands[kind], (run / "metrics.jsonl").is_file, log=folder / "log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[10**4, 10**6, 10**7])
    kinds = ["lerobot", "lightning", "laq", "label"]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--folder", type=Path, help="where the datasets are made and kept; default: made and deleted")
    parser.add_argument("--open-files", type=int, default=256, help="limit of every process")
    args = parser.parse_args()
    # Of this process, and so of all that it starts.
    resource.setrlimit(resource.RLIMIT_NOFILE, (args.open_files, args.open_files))
    with tempfile.TemporaryDirectory() as temporary:
        place = args.folder or Path(temporary)
        os.environ.setdefault("HF_DATASETS_CACHE", str(place / "hf"))
        rows: dict[str, dict[str, str]] = {}
        laq: Path | None = None
        for frames in args.frames:
            data = synthesise(place / f"frames-{frames}", frames)
            for kind in args.only:
                with tempfile.TemporaryDirectory() as folder:
                    if kind == "label" and laq is None:
                        laq = Path(temporary) / "laq"
                        laq.mkdir()
                        measure("laq", synthesise(place / "frames-10000", 10_000), laq, None)
                        laq /= "run"
                    cost = measure(kind, data, Path(folder), laq)
                rows[f"{kind}, {frames:,} frames"] = {
                    "first step, s": f"{cost.first_s:.1f}",
                    "cores, s": f"{cost.core_s:.1f}",
                    "own, MiB": f"{cost.own_mib:,.0f}",
                    "all, MiB": f"{cost.all_mib:,.0f}",
                }
                print(f"{kind}, {frames:,} frames: {cost}", flush=True)
    print(markdown(rows))


if __name__ == "__main__":
    main()
