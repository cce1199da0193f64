"""What a foundation model owes to its instruction: accuracy on held-out episodes with the true one and with others.

    python scripts/study_foundation_language.py RUN [--samples 4000] [--device cpu] [--output FILE.json]

Every held-out sample is predicted with its own instruction, with that of each other task in turn, and with an empty
one. Beside them: always the code that is most frequent in training at that position, and the same per task, which is
what an instruction alone can tell.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hlrp.config import LightningRun, load_config
from hlrp.foundation import Foundation, FoundationDataModule, FoundationModule
from hlrp.foundation.backends.interfaces import FoundationBatch
from hlrp.foundation.windows import INSTRUCTION
from hlrp.laq.metrics import code_counts
from hlrp.runs import RunDirectory


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=4000, help="held-out samples, spread evenly")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def task_majorities(data: FoundationDataModule, tasks: list[str]) -> torch.Tensor:
    """The most frequent training code of each position per task, `[tasks, S]`."""
    spec, samples = data.labels.spec, data.train_samples
    counts = torch.zeros(len(tasks), spec.positions, spec.codebook_size, dtype=torch.int64)
    for batch in data.spread(len(samples)):
        labels = data.labels.labels(batch)
        for number, task in enumerate(tasks):
            mine = torch.tensor([text == task for text in batch[INSTRUCTION]])
            counts[number] += code_counts(labels.codes[mine], spec.codebook_size, labels.mask[mine])
    return counts.argmax(-1)


class Tally:
    """Right predictions per way of predicting, position and task."""

    def __init__(self, positions: int, tasks: list[str]) -> None:
        self._tasks, self._shape = tasks, (len(tasks), positions)
        self._right: dict[str, torch.Tensor] = {}
        self._total: dict[str, torch.Tensor] = {}

    def add(self, way: str, predicted: torch.Tensor, batch: FoundationBatch) -> None:
        codes, mask = batch.target_codes, batch.target_mask
        assert codes is not None and mask is not None
        right, total = ((predicted == codes) & mask).cpu(), mask.cpu()
        for store, values in ((self._right, right), (self._total, total)):
            counts = store.setdefault(way, torch.zeros(self._shape, dtype=torch.int64))
            counts.index_add_(0, torch.tensor([self._tasks.index(s) for s in batch.instruction]), values.long())

    def rows(self) -> dict[str, Any]:
        rows = {}
        for way, right in self._right.items():
            total = self._total[way]
            rows[way] = {
                "accuracy": float(right.sum() / total.sum()),
                "positions": (right.sum(0) / total.sum(0)).tolist(),
                "tasks": dict(zip(self._tasks, (right.sum(1) / total.sum(1)).tolist(), strict=True)),
            }
        return rows


def main() -> None:
    args = arguments()
    run = load_config(RunDirectory.open(args.run).path / "config.yaml").config
    assert isinstance(run, LightningRun)
    data = FoundationDataModule(run, max_val_windows=args.samples)
    module = FoundationModule(run, data)
    model = Foundation.from_checkpoint(args.run, args.device)
    module.backend = model.backend
    module.to(args.device).eval()
    data.labels.to(torch.device(args.device))
    tasks = module.tasks
    per_task = task_majorities(data, tasks)
    overall = torch.tensor(model.manifest.statistics.code_counts).argmax(1)
    tally = Tally(model.config.spec.positions, tasks)

    def predicted(batch: FoundationBatch, rename: Callable[[str], str]) -> torch.Tensor:
        misled = replace(batch, instruction=[rename(s) for s in batch.instruction]).without_targets()
        codes = model.backend.latent_from_batch(misled).codes
        assert codes is not None
        return codes

    with torch.no_grad():
        for raw in data.val_dataloader():
            moved = {k: v.to(args.device) if isinstance(v, torch.Tensor) else v for k, v in raw.items()}
            batch = module.labelled(moved)
            tally.add("its own instruction", predicted(batch, lambda s: s), batch)
            for shift in range(1, len(tasks)):
                other = {t: tasks[(i + shift) % len(tasks)] for i, t in enumerate(tasks)}
                tally.add("another task's instruction", predicted(batch, other.__getitem__), batch)
            tally.add("no instruction", predicted(batch, lambda s: ""), batch)
            numbers = torch.tensor([tasks.index(s) for s in batch.instruction])
            tally.add("majority code of the task", per_task[numbers].to(args.device), batch)
            tally.add("majority code", overall.expand(len(numbers), -1).to(args.device), batch)
    rows = tally.rows()
    positions = [str(s) for s in range(model.config.spec.positions)]
    print(f"| predicted with | all | {' | '.join(positions)} | {' | '.join(tasks)} |")
    print("|---" * (2 + len(positions) + len(tasks)) + "|")
    for way, row in rows.items():
        cells = [row["accuracy"], *row["positions"], *row["tasks"].values()]
        print(f"| {way} | {' | '.join(f'{100 * c:.1f}' for c in cells)} |")
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
