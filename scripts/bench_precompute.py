"""Labelling speed, side by side: through LeRobotDataset.__getitem__, through hlrp, and the bare decoder; and memory.

    python scripts/bench_precompute.py DATASET_ROOT [--camera NAME] [--seconds 10] [--memory-frames 100000]

(a) windows from LeRobotDataset.__getitem__, one process; (b) `hlrp.latents.labelling.label`, writing its table; (c)
every frame decoded in order to RGB and dropped. (a) and (b) run with an encoder that does nothing and with a small,
untrained quantizer. Memory is the peak of (b) in a process of its own, on the dataset's episodes repeated to 3,000
and to ``--memory-frames`` frames; 0 leaves that out.
"""

import json
import tempfile
import time
from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark import finish, in_own_process, parser, resident_mib, seconds

from hlrp.data import read_dataset, sequential_frames, window_offset
from hlrp.data.episodes import check_camera
from hlrp.data.identity import visible_files
from hlrp.laq import LAQ, LAQConfig
from hlrp.latents.labelling import LabelRequest, LAQEncoder, label


class PassThrough:
    """Takes the windows and gives zeros: what remains is everything but the model."""

    def __init__(self, config: LAQConfig) -> None:
        self._shape = (config.num_frames - 1, config.code_seq_len)

    def __call__(self, windows: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.zeros(len(windows), *self._shape, dtype=torch.int64, device=windows.device), None


def request_of(root: Path, camera: str | None, config: LAQConfig, folder: Path) -> LabelRequest:
    info = read_dataset(None, root)
    return LabelRequest(info, check_camera(info, camera), folder, config, "0" * 64, batch_size=32)


def native(request: LabelRequest, encoder: Any, limit_s: float) -> float:
    """Frames per second through LeRobotDataset.__getitem__ in order, resized like ours, without workers."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torchvision.transforms.v2.functional import resize

    info, config, camera = request.info, request.config, str(request.camera)
    step = window_offset(config.offset_seconds, info.fps) / info.fps
    times = {camera: [j * step for j in range(config.num_frames)]}
    dataset = LeRobotDataset(f"local/{info.root.name}", root=info.root, delta_timestamps=times, return_uint8=True)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < limit_s and done < len(dataset):
        batch = [resize(dataset[i][camera], list(config.image_size)) for i in range(done, min(done + 32, len(dataset)))]
        encoder(torch.stack(batch))
        done += len(batch)
    return done / (time.perf_counter() - began)


def ours(request: LabelRequest, encoder: Any, device: str, repeats: int) -> float:
    tables = [Path(tempfile.mkdtemp(dir=request.output.parent)) / "table" for _ in range(repeats)]
    calls = [partial(label, replace(request, output=table), encoder, device=device) for table in tables]
    return request.info.frames / min(map(seconds, calls))


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


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--camera")
    options.add_argument("--offset-seconds", type=float, default=0.1, help="time between the two frames of a window")
    options.add_argument("--seconds", type=float, default=10.0, help="how long (a) is measured")
    options.add_argument("--repeats", type=int, default=2, help="passes of (b) and (c); the best counts")
    options.add_argument("--memory-frames", type=int, default=100_000)
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LAQConfig(offset_seconds=args.offset_seconds)
    through, real = PassThrough(config), LAQEncoder(LAQ(config).eval().to(args.device))
    with tempfile.TemporaryDirectory() as folder:
        request = request_of(args.dataset_root, args.camera, config, Path(folder) / "table")
        result: dict[str, Any] = {
            "dataset": request.info.repo_id,
            "frames": request.info.frames,
            "image_size": list(config.image_size),
            "c_decode": bare(request, args.repeats),
            "b_pass_through": ours(request, through, args.device, args.repeats),
            "b_small_laq": ours(request, real, args.device, 1),
            "a_pass_through": native(request, through, args.seconds),
            "a_small_laq": native(request, real, args.seconds),
        }
        result["b_to_c"] = result["b_pass_through"] / result["c_decode"]
        result["b_to_a"] = result["b_pass_through"] / result["a_pass_through"]
        if args.memory_frames:
            few = repeated(args.dataset_root, 3000, Path(folder) / "few")
            many = repeated(args.dataset_root, args.memory_frames, Path(folder) / "many")
            result["memory_frames"] = [read_dataset(None, root).frames for root in (few, many)]
            peaks = [in_own_process("spawn", peak_mib, root, request.camera, config) for root in (few, many)]
            result["memory_mib"], result["memory_growth_mib"] = peaks, peaks[1] - peaks[0]
    finish({k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}, args)


if __name__ == "__main__":
    main()
