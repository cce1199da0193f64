"""Training speed of quantizers: samples/s, share of the card's peak, wait for data; per preset, precision, batch size.

    python scripts/bench_laq.py DATASET_ROOT [--presets tiny base] [--precisions 32 bf16] [--batch-sizes 64]
        [--quantizer nsvq] [--image-size 256] [--compile no yes] [--device cuda] [--steps 60] [--cache ram]

A line of JSON for each: whole runs of `hlrp train`'s own trainer, frames in memory, read from the run's metrics; the
first half of the steps, in which kernels are chosen and blocks compiled, is left out. ``flops`` is what one sample
needs in matrix products and attention, forward and backward (PyTorch's counter), and ``of_peak`` that times samples/s
over the card's peak in dense products of the precision, where it is known: float32 is TF32 there.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmark import finish, markdown, parser
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hlrp.config import LightningRun
from hlrp.laq import LAQ, PRESETS, LAQConfig
from trainers.lightning.trainer import LightningTrainer

PEAKS: dict[str, dict[str, float]] = {
    "H200": {"bf16": 989e12, "32": 495e12},
    "H100 NVL": {"bf16": 835e12, "32": 417e12},
    "H100 PCIe": {"bf16": 756e12, "32": 378e12},
    "H100": {"bf16": 989e12, "32": 495e12},
    "A100": {"bf16": 312e12, "32": 156e12},
    "L40S": {"bf16": 362e12, "32": 183e12},
    "RTX 4090": {"bf16": 165e12, "32": 83e12},
}
"""Products per second without sparsity, from NVIDIA's data sheets, by a part of the card's name; the first counts."""


def flops_of(config: LAQConfig) -> int:
    """Floating point operations of one window's training step that are matrix products."""
    frames = torch.rand(1, config.num_frames, config.channels, *config.image_size)
    # Of attention the plain formula, of whose products alone the counter knows on a CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        LAQ(config)(frames).recon.sum().backward()
    return int(counter.get_total_flops())


def peak_of(device: str, precision: str) -> float | None:
    """The card's, or None where it is not known."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peaks[precision] for part, peaks in PEAKS.items() if part in name), None)


def run_of(args: argparse.Namespace, preset: str, precision: str, batch_size: int, compiled: bool) -> LightningRun:
    trainer = {"steps": args.steps, "batch_size": batch_size, "precision": precision, "device": args.device}
    trainer |= {"log_freq": 5, "save_freq": args.steps, "compile": compiled, "logger": []}
    model = {"kind": "laq", "preset": preset, "quantizer": args.quantizer, "image_size": args.image_size}
    data = {"root": str(args.dataset_root), "cache": args.cache, "offset_seconds": args.offset_seconds}
    data |= {"cameras": args.cameras}
    return LightningRun.model_validate({"trainer_type": "lightning", "trainer": trainer, "model": model, "data": data})


def measure(run: LightningRun, folder: Path) -> dict[str, float]:
    """Medians over the rows of the run's second half."""
    result = LightningTrainer().fit(run=run, output_dir=folder)
    rows = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text(encoding="utf8").splitlines()]
    late = [row for row in rows if "samples_per_s" in row and row["step"] > run.trainer.steps // 2]
    return {key: statistics.median(row[key] for row in late) for key in ("samples_per_s", "data_wait")}


def row_of(args: argparse.Namespace, preset: str, precision: str, batch_size: int, compiled: bool) -> dict[str, Any]:
    run = run_of(args, preset, precision, batch_size, compiled)
    config, row = LAQConfig.from_run(run), {"preset": preset, "precision": precision}
    row |= {"batch_size": batch_size, "compiled": compiled, "size": config.image_size[0], "device": args.device}
    with tempfile.TemporaryDirectory() as folder:
        found = measure(run, Path(folder) / "run")
    flops, peak = flops_of(config), peak_of(args.device, precision)
    done = found["samples_per_s"] * flops
    return row | {
        "samples_per_s": round(found["samples_per_s"], 1),
        "data_wait": round(found["data_wait"], 4),
        "gflops": round(flops / 1e9, 2),
        "tflops_per_s": round(done / 1e12, 3),
        "of_peak": None if peak is None else round(done / peak, 3),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--presets", nargs="+", default=["tiny"], choices=list(PRESETS))
    options.add_argument("--precisions", nargs="+", default=["32"], choices=["32", "bf16"])
    options.add_argument("--batch-sizes", nargs="+", type=int, default=[64])
    options.add_argument("--compile", nargs="+", default=["no"], choices=["no", "yes"])
    options.add_argument("--quantizer", default="nsvq", choices=["nsvq", "fsq", "vq"])
    options.add_argument("--image-size", type=int, help="side of the frames; default: the preset's")
    options.add_argument("--offset-seconds", type=float, default=0.1, help="time between the two frames of a window")
    options.add_argument("--cameras", nargs="+", help="default: the dataset's only one")
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--cache", choices=["off", "ram", "disk"], default="ram")
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    rows = []
    for preset, precision, size, compiled in itertools.product(
        args.presets, args.precisions, args.batch_sizes, args.compile
    ):
        rows.append(row_of(args, preset, precision, size, compiled == "yes"))
        print(json.dumps(rows[-1]), flush=True)
    print(markdown({str(number): row for number, row in enumerate(rows, 1)}))
    finish({"rows": rows}, args)


if __name__ == "__main__":
    main()
