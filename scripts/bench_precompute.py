"""Labelling speed, per preset, batch size and number of decoding threads; beside LeRobot's reader and bare decoding.

    python scripts/bench_precompute.py DATASET_ROOT [--device cuda] [--presets tiny base hlrp] [--batch-sizes 32 256]
        [--decode-workers 0] [--video-backend pyav] [--frames 0] [--seconds 10] [--memory-frames 100000]

A line of JSON each, in frames/s: ``labels``, `hlrp.latents.labelling.label` writing its table; ``decoding``, the same
with an encoder that does nothing; ``encoder``, the quantizer alone on windows that lie on the device. Labels come no
faster than the slower of the last two. Quantizers are untrained.

Then, with the first preset and batch size, on all frames: (a) windows from LeRobotDataset.__getitem__, one process;
(b) labels; (c) every frame decoded in order to RGB by one thread and dropped; with an encoder that does nothing and
with the quantizer. ``--seconds 0`` leaves that out. Memory is the peak of (b) in a process of its own, on the
dataset's episodes repeated to 3,000 and to ``--memory-frames`` frames; 0 leaves that out.
"""

import argparse
import json
import tempfile
import time
from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark import finish, in_own_process, markdown, parser, resident_mib, seconds

from hlrp.data import read_dataset, sequential_frames, window_offset
from hlrp.data.episodes import check_camera
from hlrp.data.identity import visible_files
from hlrp.devices import choose_device
from hlrp.laq import LAQ, PRESETS, LAQConfig
from hlrp.latents.labelling import LabelRequest, LAQEncoder, label
from hlrp.ranks import own_cores


class PassThrough:
    """Takes the windows and gives zeros: what remains is everything but the model."""

    def __init__(self, config: LAQConfig) -> None:
        self._shape = (config.num_frames - 1, config.code_seq_len)

    def __call__(self, windows: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.zeros(len(windows), *self._shape, dtype=torch.int64, device=windows.device), None


def request_of(
    root: Path, camera: str | None, config: LAQConfig, folder: Path, batch_size: int = 32, backend: Any = None
) -> LabelRequest:
    info = read_dataset(None, root, video_backend=backend)
    return LabelRequest(info, check_camera(info, camera), folder, config, "0" * 64, batch_size=batch_size)


def native(request: LabelRequest, encoder: Any, limit_s: float) -> float:
    """Frames per second through LeRobotDataset.__getitem__ in order, resized like ours, without workers."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torchvision.transforms.v2.functional import resize

    info, config, camera = request.info, request.config, str(request.camera)
    step = window_offset(config.offset_seconds, info.fps) / info.fps
    times = {camera: [j * step for j in range(config.num_frames)]}
    dataset = LeRobotDataset(
        f"local/{info.root.name}", root=info.root, delta_timestamps=times, return_uint8=True, video_backend="pyav"
    )
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < limit_s and done < len(dataset):
        batch = [resize(dataset[i][camera], list(config.image_size)) for i in range(done, min(done + 32, len(dataset)))]
        encoder(torch.stack(batch))
        done += len(batch)
    return done / (time.perf_counter() - began)


def ours(request: LabelRequest, encoder: Any, device: str, repeats: int, workers: int = 0) -> float:
    with tempfile.TemporaryDirectory() as folder:
        tables = [replace(request, output=Path(folder) / str(number)) for number in range(repeats)]
        took = min(seconds(partial(label, table, encoder, device=device, workers=workers)) for table in tables)
    return request.info.frames / took


def encoder_alone(encoder: Any, config: LAQConfig, batch_size: int, device: str, limit_s: float = 2.0) -> float:
    """Windows per second of the quantizer on windows that lie on the device, channels last as `label` gives them."""
    shape = (batch_size, config.num_frames, *config.image_size, 3)
    windows = torch.randint(256, shape, dtype=torch.uint8, device=device).permute(0, 1, 4, 2, 3)
    encoder(windows)[0].cpu()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < limit_s:
        codes = [encoder(windows)[0] for _ in range(4)]
        codes[-1].cpu()
        done += 4 * batch_size
    return done / (time.perf_counter() - began)


def rows_of(args: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """A row for each preset, batch size and number of threads, printed as it is known."""
    rows = []
    for preset in args.presets:
        config = LAQConfig.preset(preset, offset_seconds=args.offset_seconds)
        encoder = LAQEncoder(LAQ(config).eval().to(args.device))
        for batch_size in args.batch_sizes:
            alone = encoder_alone(encoder, config, batch_size, args.device)
            for workers in args.decode_workers:
                request = request_of(root, args.camera, config, Path(), batch_size, args.video_backend)
                row = {
                    "preset": preset,
                    "size": config.image_size[0],
                    "batch_size": batch_size,
                    "decode_workers": workers or own_cores(),
                    "video_backend": request.info.video_backend,
                    "device": args.device,
                    "labels": ours(request, encoder, args.device, args.repeats, workers),
                    "decoding": ours(request, PassThrough(config), args.device, args.repeats, workers),
                    "encoder": alone,
                }
                rows.append({k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def bare(request: LabelRequest, repeats: int) -> float:
    def decode() -> None:
        deque(sequential_frames(request.info, request.camera), maxlen=0)

    return request.info.frames / min(seconds(decode) for _ in range(repeats))


def repeated(root: Path, frames: int, target: Path) -> Path:
    """The dataset's episodes over and over, pointing into the same videos, until there are about ``frames`` frames."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    info = json.loads((root / "meta" / "info.json").read_text(encoding="utf8"))

    def read(folder: Path) -> pa.Table:
        return pa.concat_tables(pq.read_table(p) for _, p in visible_files(folder) if p.suffix == ".parquet")

    rows, episodes = read(root / "data"), read(root / "meta" / "episodes")
    if frames < len(rows):
        kept = [end for end in episodes.column("dataset_to_index").to_pylist() if end <= frames] or [len(rows)]
        rows, episodes = rows.slice(0, kept[-1]), episodes.slice(0, len(kept))
    times = max(1, round(frames / len(rows)))

    def shifted(table: pa.Table, by: dict[str, int], copy: int) -> pa.Table:
        for name, step in by.items():
            moved = pc.add(table.column(name), pa.scalar(copy * step, pa.int64()))
            table = table.set_column(table.column_names.index(name), name, moved)
        return table

    by_row = {"index": len(rows), "episode_index": len(episodes)}
    by_episode = {"episode_index": len(episodes), "dataset_from_index": len(rows), "dataset_to_index": len(rows)}
    for part, table, by in (("data", rows, by_row), ("meta/episodes", episodes, by_episode)):
        path = target / part / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.concat_tables(shifted(table, by, i) for i in range(times)), path)
    info |= {"total_frames": times * len(rows), "total_episodes": times * len(episodes)}
    (target / "meta" / "info.json").write_text(json.dumps(info), encoding="utf8")
    (target / "videos").symlink_to((root / "videos").resolve())
    return target


def peak_mib(root: Path, camera: str | None, config: LAQConfig) -> float:
    """Peak memory of this process after labelling."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        label(request_of(root, camera, config, Path(folder) / "table"), PassThrough(config))
    return resident_mib("VmHWM")


def beside_lerobot(args: argparse.Namespace) -> dict[str, Any]:
    """(a), (b) and (c), and their ratios."""
    config = LAQConfig.preset(args.presets[0], offset_seconds=args.offset_seconds)
    request = request_of(args.dataset_root, args.camera, config, Path(), args.batch_sizes[0], args.video_backend)
    through, real = PassThrough(config), LAQEncoder(LAQ(config).eval().to(args.device))
    on_device = lambda windows: real(windows.to(args.device))  # noqa: E731
    result: dict[str, Any] = {
        "image_size": list(config.image_size),
        "c_decode": bare(request, args.repeats),
        "b_pass_through": ours(request, through, args.device, args.repeats),
        "b_laq": ours(request, real, args.device, 1),
        "a_pass_through": native(request, through, args.seconds),
        "a_laq": native(request, on_device, args.seconds),
    }
    result["b_to_c"] = result["b_pass_through"] / result["c_decode"]
    result["b_to_a"] = result["b_pass_through"] / result["a_pass_through"]
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}


def memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peaks of labelling few frames and many."""
    config = LAQConfig.preset(args.presets[0], offset_seconds=args.offset_seconds)
    few = repeated(args.dataset_root, 3000, folder / "few")
    many = repeated(args.dataset_root, args.memory_frames, folder / "many")
    peaks = [in_own_process("spawn", peak_mib, root, args.camera, config) for root in (few, many)]
    return {
        "memory_frames": [read_dataset(None, root).frames for root in (few, many)],
        "memory_mib": [round(peak) for peak in peaks],
        "memory_growth_mib": round(peaks[1] - peaks[0]),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--camera")
    options.add_argument("--offset-seconds", type=float, default=0.1, help="time between the two frames of a window")
    options.add_argument("--presets", nargs="+", default=["tiny"], choices=list(PRESETS))
    options.add_argument("--batch-sizes", nargs="+", type=int, default=[32], help="windows encoded at a time")
    options.add_argument("--decode-workers", nargs="+", type=int, default=[0], help="threads that decode; 0: the cores")
    options.add_argument("--video-backend", choices=["pyav", "torchcodec"])
    options.add_argument("--frames", type=int, default=0, help="label about so many; 0: the dataset's")
    options.add_argument("--seconds", type=float, default=10.0, help="how long (a) is measured; 0: (a) to (c) are not")
    options.add_argument("--repeats", type=int, default=2, help="passes of each; the best counts")
    options.add_argument("--memory-frames", type=int, default=100_000)
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    choose_device(args.device)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        root = args.dataset_root
        if args.frames:
            root = repeated(root, args.frames, Path(folder) / root.name)
        info = read_dataset(None, root)
        result: dict[str, Any] = {"dataset": info.repo_id, "frames": info.frames, "rows": rows_of(args, root)}
        if args.seconds:
            result |= beside_lerobot(args)
        if args.memory_frames:
            result |= memory(args, Path(folder))
    print(markdown({f"{i}": row for i, row in enumerate(result["rows"], 1)}))
    finish(result, args)


if __name__ == "__main__":
    main()
