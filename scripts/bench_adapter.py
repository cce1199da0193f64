"""What Lightning costs a LeRobot policy: steps on equal prepared batches, and whole commands side by side.

    python scripts/bench_adapter.py steps --dataset-root DIR [--policies act diffusion] [--steps 30] [--repeats 3]
    python scripts/bench_adapter.py commands --dataset-root DIR [--policy act] [--steps 200] [--cache disk] [key=value]

`steps`: LeRobot's own `update_policy` and the adapter under a Lightning Trainer, in turn, on the same batches in
memory, CPU float32; prints milliseconds of a step and their ratio. `commands`: stock `lerobot-train`, with what
`hlrp train --trainer lerobot` gives it, against `hlrp train --trainer lightning`, in turn; prints samples/s after
the first fifth, and seconds from the command to its first step. Fewer than 1,000 steps: LeRobot then logs `1K`.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from bench_lerobot_trainer import Timing, native, ours, stock_arguments

_RESNETS = ("act", "diffusion", "vqbet")
# Sizes at which a step takes some hundred milliseconds on a core.
SIZES: dict[str, dict[str, Any]] = {
    "act": {"chunk_size": 20, "n_action_steps": 10, "dim_model": 128, "dim_feedforward": 256},
    "diffusion": {"horizon": 16, "n_action_steps": 8, "down_dims": [64, 128], "use_group_norm": True},
}


def compare_steps(policy: str, root: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Median milliseconds of a step, natively and in Lightning, in turn."""
    times: dict[str, list[float]] = {"native": [], "lightning": []}
    for _ in range(repeats):
        times["native"] += _native(policy, root, steps)
        times["lightning"] += _lightning(policy, root, steps)
    native, lightning = (1e3 * statistics.median(times[name]) for name in ("native", "lightning"))
    return {"policy": policy, "native_ms": native, "lightning_ms": lightning, "ratio": lightning / native}


def _adapter_and_batches(policy: str, root: Path, count: int) -> tuple[Any, Any, list[Any]]:
    import torch

    from hlrp.data import LeRobotDataModule
    from hlrp.policies import LeRobotPolicyAdapter

    torch.manual_seed(0)
    data = LeRobotDataModule(root=root, batch_size=8, cache="ram", seed=0, announce=lambda _: None)
    adapter = LeRobotPolicyAdapter(policy, pretrained_backbone_weights=None, **SIZES[policy])
    built = adapter.build(data.meta)
    data.for_policy(built.config)
    return adapter, data, list(islice(data.train_dataloader(), count))


def _native(policy: str, root: Path, steps: int) -> list[float]:
    """LeRobot's own step: preprocessor, `update_policy` with Accelerate."""
    from accelerate import Accelerator
    from lerobot.scripts.lerobot_train import update_policy

    adapter, _, batches = _adapter_and_batches(policy, root, 8)
    built = adapter.built
    accelerator = Accelerator(cpu=True, step_scheduler_with_optimizer=False)
    preset = built.config.get_optimizer_preset()
    optimizer = preset.build(built.policy.get_optim_params())
    model, optimizer = accelerator.prepare(built.policy, optimizer)
    tracker: Any = SimpleNamespace(update_metrics=lambda outputs: None)
    times = []
    for step in range(steps):
        batch = dict(batches[step % len(batches)])
        began = time.perf_counter()
        for key, value in batch.items():
            if "image" in key and str(getattr(value, "dtype", "")) == "torch.uint8":
                batch[key] = value.float() / 255.0
        update_policy(tracker, model, built.preprocessor(batch), optimizer, preset.grad_clip_norm, accelerator)
        times.append(time.perf_counter() - began)
    return times[steps // 5 :]


def _lightning(policy: str, root: Path, steps: int) -> list[float]:
    """The adapter under a Trainer, on the same batches."""
    from lightning.pytorch import Callback, Trainer
    from torch.utils.data import DataLoader

    adapter, data, batches = _adapter_and_batches(policy, root, 8)
    prepared = [dict(batches[i % len(batches)]) for i in range(steps)]
    data.train_dataloader = lambda: DataLoader(prepared, batch_size=None)
    times: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            times.append(time.perf_counter())

    Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    ).fit(adapter, data)
    return [after - before for before, after in pairwise(times)][steps // 5 :]


def run_command(trainer: str, options: list[str], run: Path) -> Timing:
    """Time a whole command: LeRobot's own, or `hlrp train --trainer lightning`."""
    options = ["--trainer", trainer, *options]
    return native(stock_arguments(options, run)) if trainer == "lerobot" else ours(options, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "commands"])
    parser.add_argument("--policies", nargs="+", default=["act", "diffusion"])
    parser.add_argument("--policy", default="act")
    parser.add_argument("--dataset-root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--cache", default="disk")
    args, keys = parser.parse_known_args()
    if args.what == "steps":
        for policy in args.policies:
            print(json.dumps(compare_steps(policy, args.dataset_root, args.steps, args.repeats)))
        return
    options = ["--policy", args.policy, "--dataset-root", str(args.dataset_root), "--steps", str(args.steps)]
    options += ["--batch-size", str(args.batch_size), "--device", "cpu", "trainer.log_freq=1"]
    options += [f"trainer.save_freq={args.steps}", *keys]
    if args.policy in _RESNETS:
        options.append("model.pretrained_backbone_weights=null")
    found: dict[str, list[dict[str, float]]] = {"lerobot": [], "lightning": []}
    for _ in range(args.repeats):
        for trainer, results in found.items():
            own = [*options, f"data.cache={args.cache}"] if trainer == "lightning" else options
            with tempfile.TemporaryDirectory() as scratch:
                timing = run_command(trainer, own, Path(scratch) / "run")
            speed = timing.steps_per_s * args.batch_size
            results.append({"samples_per_s": speed, "first_step_s": timing.first_step_s})
            print(trainer, json.dumps(results[-1]), flush=True)
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in found.items()
    }
    ratios = {key: medians["lightning"][key] / medians["lerobot"][key] for key in medians["lerobot"]}
    print(json.dumps({**medians, "ratio": ratios}, indent=1))


if __name__ == "__main__":
    main()
