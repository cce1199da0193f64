"""Random windows per second: LeRobotDataset.__getitem__ against the frame store, side by side, with a pixel check.

    python scripts/bench_windows.py DATASET_ROOT [--camera NAME] [--num-frames 2] [--offset-seconds 0.1] [--size PIXELS]

Both read the same random windows of T frames at the same size, on one core, without worker processes. The store is
made in a temporary folder, and the time that takes is reported too.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark import finish, parser

from hlrp.data import FrameWindows, WindowSource, read_dataset, window_offset
from hlrp.data.decode import resize_frames
from hlrp.data.episodes import check_camera


def native_dataset(root: Path, camera: str, times: list[float]) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    # The decoder is the same on both sides; with LeRobot's default the pixels would be those of torchcodec.
    return LeRobotDataset(
        f"local/{root.name}", root=root, delta_timestamps={camera: times}, video_backend="pyav", return_uint8=True
    )


def native_frames(dataset: Any, camera: str, index: int, size: tuple[int, int]) -> np.ndarray:
    frames = dataset[int(index)][camera]
    if frames.dtype != torch.uint8:  # pictures kept in the tables
        frames = (frames * 255).round().to(torch.uint8)
    return resize_frames(frames.numpy(), size)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--camera")
    options.add_argument("--num-frames", type=int, default=2)
    options.add_argument("--offset-seconds", type=float, default=0.1)
    options.add_argument("--size", type=int, help="side of the square that frames are resized to; default: as recorded")
    options.add_argument("--seconds", type=float, default=10.0, help="how long each side is measured")
    options.add_argument("--batch-size", type=int, default=64)
    args = options.parse_args()
    torch.set_num_threads(1)
    info = read_dataset(None, args.dataset_root)
    camera = check_camera(info, args.camera)
    source = WindowSource(info, cameras=[camera])
    shape = {"num_frames": args.num_frames, "offset_seconds": args.offset_seconds, "size": args.size}
    offset = window_offset(args.offset_seconds, info.fps)
    native = native_dataset(args.dataset_root, camera, [j * offset / info.fps for j in range(args.num_frames)])
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        stored = FrameWindows([source], cache="disk", cache_root=Path(folder), **shape)
        made_s = time.perf_counter() - began

        count, equal, native_s = 0, True, 0.0
        while native_s < args.seconds:
            index = int(rng.integers(len(stored)))
            began = time.perf_counter()
            frames = native_frames(native, camera, index, stored.size)
            native_s += time.perf_counter() - began
            equal = equal and np.array_equal(frames, stored[index]["frames"].numpy())
            count += 1

        windows, began = 0, time.perf_counter()
        while time.perf_counter() - began < args.seconds:
            stored.__getitems__(rng.integers(len(stored), size=args.batch_size))
            windows += args.batch_size
        stored_s = time.perf_counter() - began

    result = {
        "dataset": info.repo_id,
        "camera": camera,
        "size": list(stored.size),
        "native_windows_per_s": round(count / native_s, 1),
        "store_windows_per_s": round(windows / stored_s, 1),
        "ratio": round(windows / stored_s / (count / native_s), 1),
        "pixels_equal": bool(equal),
        "windows_compared": count,
        "store_made_s": round(made_s, 2),
    }
    finish(result, args)
    raise SystemExit(0 if equal else 1)


if __name__ == "__main__":
    main()
