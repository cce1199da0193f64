"""What the benchmarks share: kinds measured in turn, LeRobot's training step, memory of a process, and the report."""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def parser(about: str | None) -> argparse.ArgumentParser:
    """A parser with what all benchmarks of one dataset take."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("dataset_root", type=Path)
    found.add_argument("--output", type=Path, help="write the result as JSON here")
    return found


def seconds(call: Callable[..., object], *arguments: Any) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def take_turns[T](kinds: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each kind measured, round by round; every round begins with another kind, as a machine's speed drifts."""
    names = list(kinds)
    found: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(kinds[name]())
    return found


def over(found: Mapping[str, Sequence[float]], name: str, other: str) -> float:
    """The median of one kind's ratios to another kind in the same round."""
    return round(statistics.median(a / b for a, b in zip(found[name], found[other], strict=True)), 4)


class LeRobotStep:
    """The training step of `lerobot-train`: `update_policy`, with the policy's own optimizer, in Accelerate."""

    def __init__(self, policy: Any, *, device: str = "cpu", precision: str = "no") -> None:
        from accelerate import Accelerator

        preset = policy.config.get_optimizer_preset()
        self._clip = preset.grad_clip_norm
        self._accelerator = Accelerator(
            cpu=device == "cpu", mixed_precision=precision, step_scheduler_with_optimizer=False
        )
        self._tracker: Any = SimpleNamespace(update_metrics=lambda outputs: None)
        self.policy: Any
        self.policy, self._optimizer = self._accelerator.prepare(policy, preset.build(policy.get_optim_params()))

    def __call__(self, prepared: dict[str, Any]) -> None:
        from lerobot.scripts.lerobot_train import update_policy

        update_policy(self._tracker, self.policy, prepared, self._optimizer, self._clip, self._accelerator)


def resident_mib(field: str) -> float:
    """Memory of this process: `VmRSS` now, or `VmHWM` at most. Not ru_maxrss: a child's begins at its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def in_own_process[T](start: str, call: Callable[..., T], *arguments: Any) -> T:
    """The result of a call in a process of its own, which starts by `fork` or `spawn`."""
    with ProcessPoolExecutor(1, multiprocessing.get_context(start)) as pool:
        return pool.submit(call, *arguments).result()


def finish(result: dict[str, Any], args: argparse.Namespace) -> None:
    """Print a result as JSON, with what was asked for and the machine, and write it where `--output` says."""
    import torch

    on_gpu = str(getattr(args, "device", "cpu")).startswith("cuda")
    machine = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }
    text = json.dumps(result | {"settings": vars(args), "machine": machine}, indent=2, default=str)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf8")


def markdown(rows: Mapping[str, Mapping[str, object]]) -> str:
    """A table with a column for each key that a row has."""
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [["", *keys], ["---"] * (len(keys) + 1)]
    cells += [[name, *(str(row.get(key, "")) for key in keys)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
