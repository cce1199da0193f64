"""Training throughput of a foundation model with precomputed labels, with online labels and without any, side by side.

    python scripts/bench_foundation.py DATASET_ROOT --table TABLE --laq RUN [--backend qwen3vl_chat] [--backbone NAME]
        [--device cuda] [--precision bf16-mixed] [--compile]

One process, one model, the same samples. Blocks of steps take turns, each round in another order, so that a machine
that slows down slows all three down. Of each round the ratio to the same round without labels counts, and of these
ratios the median. Data wait is the share of a step that goes by before its batch is on the device.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hlrp.config import LightningRun
from hlrp.foundation import FoundationDataModule, FoundationModule
from hlrp.latents.sources import LabelSource, NoLabels


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_root", type=Path)
    parser.add_argument("--table", type=Path, required=True, help="latent table of the dataset")
    parser.add_argument("--laq", type=Path, required=True, help="quantizer that made the table")
    parser.add_argument("--backend", default="smol_latent_head")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each kind of label")
    parser.add_argument("--cache", choices=["off", "ram", "disk"], default="ram")
    parser.add_argument("--cache-root", type=Path, help="where the frame store lives with --cache disk")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["32", "bf16-mixed"], default="32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path, help="write the result as JSON here")
    return parser.parse_args()


def run_of(args: argparse.Namespace, latents: dict[str, str]) -> LightningRun:
    model = {"kind": "foundation", "backend": args.backend, "backbone": args.backbone, "image_size": args.image_size}
    return LightningRun.model_validate(
        {
            "trainer_type": "lightning",
            "trainer": {"batch_size": args.batch_size, "device": args.device},
            "model": model,
            "data": {"root": str(args.dataset_root), "cache": args.cache, "num_workers": 0},
            "latents": latents,
        }
    )


def endless(data: FoundationDataModule) -> Iterator[dict[str, Any]]:
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        yield from loader
        epoch += 1


class Bench:
    """One model that is trained on batches of any label source."""

    def __init__(self, args: argparse.Namespace, module: FoundationModule) -> None:
        self._module, self._device = module.to(args.device), torch.device(args.device)
        self._optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]
        self._half = args.precision == "bf16-mixed"
        self._loss: Any = (
            torch.compile(module.backend.loss_from_batch) if args.compile else module.backend.loss_from_batch
        )

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16) if self._half else nullcontext()

    def step(self, labels: LabelSource, batch: dict[str, Any]) -> None:
        found = labels.labels(batch)
        inputs = replace(self._module.observation(batch), target_codes=found.codes, target_mask=found.mask)
        with self._precision():
            loss = self._loss(inputs).loss
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def block(self, labels: LabelSource, batches: Iterator[dict[str, Any]], steps: int) -> tuple[float, float]:
        """Seconds of ``steps`` steps, and of them those spent waiting for data."""
        waited, began = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = {k: self._move(v) for k, v in next(batches).items()}
            waited += time.perf_counter() - asked
            self.step(labels, batch)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began, waited

    def _move(self, value: Any) -> Any:
        return value.to(self._device, non_blocking=True) if isinstance(value, Tensor) else value


def lookup_seconds(data: FoundationDataModule, batch_size: int) -> float:
    """Seconds that the labels of one batch take to be looked up, measured alone."""
    samples = data.train_samples
    index = samples.ids(list(range(0, len(samples), max(1, len(samples) // batch_size)))[:batch_size])[:, 1]
    times = []
    for _ in range(200):
        began = time.perf_counter()
        data.labels.read(0, index)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(
    args: argparse.Namespace, bench: Bench, kinds: dict[str, FoundationDataModule]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each block, and the share of them spent waiting for data, per kind of labels."""
    batches = {name: endless(data) for name, data in kinds.items()}
    for name, data in kinds.items():
        data.labels.to(torch.device(args.device))
        bench.block(data.labels, batches[name], 3)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    waits: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(args.rounds):
        for name in list(kinds)[number % 3 :] + list(kinds)[: number % 3]:
            spent, waited = bench.block(kinds[name].labels, batches[name], args.steps)
            seconds[name].append(spent)
            waits[name].append(waited / spent)
    return seconds, waits


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"cache_root": args.cache_root or Path(folder), "announce": lambda text: None}
        looked_up = FoundationDataModule(run_of(args, {"table": str(args.table)}), **options)
        online = FoundationDataModule(run_of(args, {"laq": str(args.laq)}), **options)
        none = FoundationDataModule(
            looked_up.run, labels=NoLabels(looked_up.labels.spec, looked_up.labels.cameras), **options
        )
        kinds = {"none": none, "precomputed": looked_up, "online": online}
        bench = Bench(args, FoundationModule(looked_up.run, looked_up))
        seconds, waits = measure(args, bench, kinds)
        lookup = lookup_seconds(looked_up, args.batch_size)

    samples = args.steps * args.batch_size
    best_step = min(seconds["none"]) / args.steps
    result: dict[str, Any] = {
        "backend": args.backend,
        "backbone": args.backbone,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "compile": args.compile,
        "cache": args.cache,
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "samples_per_s": {name: round(samples / statistics.median(s), 1) for name, s in seconds.items()},
        "time_over_none": {
            name: round(statistics.median(a / b for a, b in zip(s, seconds["none"], strict=True)), 4)
            for name, s in seconds.items()
        },
        "data_wait": {name: round(statistics.median(w), 4) for name, w in waits.items()},
        "lookup_ms_per_batch": round(1000 * lookup, 3),
        "lookup_share_of_step": round(lookup / best_step, 4),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
