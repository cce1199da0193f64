"""What Lightning costs a LeRobot policy: steps on equal prepared batches. Whole commands: `bench_train.py`.

    python scripts/bench_adapter.py --dataset-root DIR [--policies act diffusion] [--steps 30] [--repeats 3]
        [--device cuda]

LeRobot's own `update_policy` and the adapter under a Lightning Trainer, in turn, on the same batches in the host's
memory, float32; prints milliseconds of a step, its batch's way to the device included, and their ratio. On a GPU each
step is waited for.
"""

import argparse
import json
import statistics
import time
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

from benchmark import LeRobotStep, take_turns

# Sizes at which a step takes some hundred milliseconds on a core.
SIZES: dict[str, dict[str, Any]] = {
    "act": {"chunk_size": 20, "n_action_steps": 10, "dim_model": 128, "dim_feedforward": 256},
    "diffusion": {"horizon": 16, "n_action_steps": 8, "down_dims": [64, 128], "use_group_norm": True},
}


def compare_steps(policy: str, args: argparse.Namespace) -> dict[str, Any]:
    """Median milliseconds of a step, natively and in Lightning, in turn."""
    kinds = {kind.__name__: partial(kind, policy, args) for kind in (native, lightning)}
    times = take_turns(kinds, args.repeats)
    medians = {name: 1e3 * statistics.median(chain(*found)) for name, found in times.items()}
    ratio = medians["lightning"] / medians["native"]
    return {
        "policy": policy,
        "device": args.device,
        **{f"{name}_ms": value for name, value in medians.items()},
        "ratio": ratio,
    }


def _adapter_and_batches(policy: str, args: argparse.Namespace, count: int) -> tuple[Any, Any, list[Any]]:
    import torch

    from hlrp.data import LeRobotDataModule
    from hlrp.policies import LeRobotPolicyAdapter

    torch.manual_seed(0)
    data = LeRobotDataModule(root=args.dataset_root, batch_size=8, cache="ram", seed=0, announce=lambda _: None)
    adapter = LeRobotPolicyAdapter(policy, pretrained_backbone_weights=None, **SIZES[policy])
    built = adapter.build(data.meta, device=args.device)
    data.for_policy(built.config)
    return adapter, data, list(islice(data.train_dataloader(), count))


def clock(device: str) -> float:
    """Seconds, when all that was asked of the device is done."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def native(policy: str, args: argparse.Namespace) -> list[float]:
    """LeRobot's own step: preprocessor, `update_policy` with Accelerate."""
    from lightning.fabric.utilities import move_data_to_device

    adapter, _, batches = _adapter_and_batches(policy, args, 8)
    train = LeRobotStep(adapter.built.policy, device=args.device)
    times = []
    for step in range(args.steps):
        batch = dict(batches[step % len(batches)])
        began = clock(args.device)
        batch = move_data_to_device(batch, args.device)
        for key, value in batch.items():
            if "image" in key and str(getattr(value, "dtype", "")) == "torch.uint8":
                batch[key] = value.float() / 255.0
        train(adapter.built.preprocessor(batch))
        times.append(clock(args.device) - began)
    return times[args.steps // 5 :]


def lightning(policy: str, args: argparse.Namespace) -> list[float]:
    """The adapter under a Trainer, on the same batches."""
    from lightning.pytorch import Callback, Trainer
    from torch.utils.data import DataLoader

    adapter, data, batches = _adapter_and_batches(policy, args, 8)
    prepared = [dict(batches[i % len(batches)]) for i in range(args.steps)]
    data.train_dataloader = lambda: DataLoader(prepared, batch_size=None)
    times: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            times.append(clock(args.device))

    Trainer(
        max_steps=args.steps,
        accelerator=args.device.partition(":")[0],
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    ).fit(adapter, data)
    return [after - before for before, after in pairwise(times)][args.steps // 5 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["act", "diffusion"])
    parser.add_argument("--dataset-root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    from hlrp.devices import choose_device

    choose_device(args.device)
    for policy in args.policies:
        print(json.dumps(compare_steps(policy, args)), flush=True)


if __name__ == "__main__":
    main()
