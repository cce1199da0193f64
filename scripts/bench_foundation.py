"""Training throughput of a foundation model with precomputed labels, with online labels and without any, side by side.

    python scripts/bench_foundation.py DATASET_ROOT --table TABLE --laq RUN [--backend qwen3vl_chat] [--backbone NAME]
        [--device cuda] [--precision bf16-mixed] [--compile]

One process, one model, the same samples. Blocks of steps take turns, each round in another order, so that a machine
that slows down slows all three down. Of each round the ratio to the same round without labels counts, and of these
ratios the median. Data wait is the share of a step that goes by before its batch is on the device.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark import finish, over, parser, seconds, take_turns
from lightning.fabric.utilities import move_data_to_device

from hlrp.compiled import compile_blocks
from hlrp.config import LightningRun
from hlrp.devices import choose_device
from hlrp.foundation import FoundationDataModule, FoundationModule
from hlrp.latents.sources import LabelSource, NoLabels


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--table", type=Path, required=True, help="latent table of the dataset")
    options.add_argument("--laq", type=Path, required=True, help="quantizer that made the table")
    options.add_argument("--backend", default="smol_latent_head")
    options.add_argument("--backbone", default="tiny")
    options.add_argument("--image-size", type=int)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--steps", type=int, default=20, help="steps of a block")
    options.add_argument("--rounds", type=int, default=7, help="blocks of each kind of label")
    options.add_argument("--cache", choices=["off", "ram", "disk"], default="ram")
    options.add_argument("--cache-root", type=Path, help="where the frame store lives with --cache disk")
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", choices=["32", "bf16-mixed"], default="32")
    options.add_argument("--compile", action="store_true")
    return options.parse_args()


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
        if args.compile:
            compile_blocks(module)

    def step(self, labels: LabelSource, batch: dict[str, Any]) -> None:
        found = labels.labels(batch)
        inputs = replace(self._module.observation(batch), target_codes=found.codes, target_mask=found.mask)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            loss = self._module.backend.loss_from_batch(inputs).loss
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def block(self, labels: LabelSource, batches: Iterator[dict[str, Any]], steps: int) -> tuple[float, float]:
        """Seconds of ``steps`` steps, and of them those spent waiting for data."""
        waited, began = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = move_data_to_device(next(batches), self._device)
            waited += time.perf_counter() - asked
            self.step(labels, batch)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began, waited


def lookup_seconds(data: FoundationDataModule, batch_size: int) -> float:
    """Seconds that the labels of one batch take to be looked up, measured alone."""
    samples = data.train_samples
    index = samples.ids(list(range(0, len(samples), max(1, len(samples) // batch_size)))[:batch_size])[:, 1]
    return statistics.median(seconds(data.labels.read, 0, index) for _ in range(200))


def main() -> None:
    args = arguments()
    choose_device(args.device)
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
        for data in kinds.values():
            data.labels.to(torch.device(args.device))
        blocks = {name: partial(bench.block, data.labels, endless(data), args.steps) for name, data in kinds.items()}
        take_turns(blocks, 1)  # first steps allocate and compile
        found = take_turns(blocks, args.rounds)
        lookup = lookup_seconds(looked_up, args.batch_size)
    spent = {name: [total for total, _ in times] for name, times in found.items()}
    samples = args.steps * args.batch_size
    result = {
        "samples_per_s": {name: round(samples / statistics.median(times), 1) for name, times in spent.items()},
        "time_over_none": {name: over(spent, name, "none") for name in spent},
        "data_wait": {n: round(statistics.median(wait / total for total, wait in t), 4) for n, t in found.items()},
        "lookup_ms_per_batch": round(1000 * lookup, 3),
        "lookup_share_of_step": round(lookup / (min(spent["none"]) / args.steps), 4),
    }
    finish(result, args)


if __name__ == "__main__":
    main()
