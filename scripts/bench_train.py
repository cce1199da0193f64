"""`hlrp train` against stock `lerobot-train` with what `hlrp train --dry-run` gives it, in turn, in one run.

    python scripts/bench_train.py --dataset-root DIR [--trainer lightning --cache disk] [--steps 300] [key=value ...]

Prints, per repeat and in the median: steady steps/s (after the first fifth of the steps), seconds until
LeRobot's own process is started, and seconds until the first logged step, the first of all with Lightning.
Fewer than 1,000 steps: LeRobot then logs `1K`.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from benchmark import markdown, take_turns

BIN = Path(sys.executable).parent
STEP = re.compile(r"step:(\d+) smpl:")


class Timing(NamedTuple):
    """One run: seconds to LeRobot's process and to the first logged step, and steady steps/s."""

    process_s: float
    first_step_s: float
    steps_per_s: float


def steady(rows: list[tuple[int, float]]) -> float:
    """Steps per second between the end of the first fifth and the last row."""
    start = max(1, len(rows) // 5)
    (first, begun), (last, ended) = rows[start], rows[-1]
    return (last - first) / (ended - begun)


def ours(options: list[str], run: Path) -> Timing:
    """Time the installed `hlrp train`; with Lightning there is no process of LeRobot's."""
    started = time.time()
    process = subprocess.Popen(
        [str(BIN / "hlrp"), "train", *options, "--output-dir", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    child = None
    while child is None and process.poll() is None:
        children = psutil.Process(process.pid).children()
        child = next((c for c in children if "trainers.lerobot.worker" in c.cmdline()), None)
        time.sleep(0.005)
    created = child.create_time() if child else float("nan")
    if process.wait() != 0:
        raise SystemExit(f"hlrp train failed; see {run}")
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    times = [(row["step"], row["time"]) for row in rows if "loss" in row]
    return Timing(created - started, times[0][1] - started, steady(times))


def native(arguments: list[str]) -> Timing:
    """Time stock `lerobot-train`; its log lines are stamped as they arrive."""
    started = time.time()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [str(BIN / "lerobot-train"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    assert process.stdout is not None
    rows: list[tuple[int, float]] = []
    for line in process.stdout:
        if match := STEP.search(line.decode("utf8", "replace")):
            rows.append((int(match[1]), time.time()))
    if process.wait() != 0:
        raise SystemExit("lerobot-train failed")
    return Timing(0.0, rows[0][1] - started, steady(rows))


def stock_arguments(options: list[str], run: Path) -> list[str]:
    """What `hlrp train` would give `lerobot-train`."""
    plan = [str(BIN / "hlrp"), "train", *options, "--output-dir", str(run), "--dry-run"]
    shown = subprocess.run(plan, capture_output=True, text=True, check=True).stdout
    return [argument for argument in shlex.split(shown) if argument.startswith("--")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-root", required=True)
    parser.add_argument("--trainer", choices=["lerobot", "lightning"], default="lerobot")
    parser.add_argument("--cache", default="disk", help="data.cache with --trainer lightning")
    parser.add_argument("--policy", default="act")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("overrides", nargs="*", help="key=value, as for hlrp train")
    args = parser.parse_args()
    lightning = args.trainer == "lightning"
    options = ["--policy", args.policy, "--dataset-root", args.dataset_root, "--steps", str(args.steps)]
    options += ["--batch-size", str(args.batch_size), "--device", args.device, f"trainer.save_freq={args.steps}"]
    options += [f"trainer.log_freq={1 if lightning else 5}", *args.overrides]
    if args.policy in ("act", "diffusion", "vqbet") and not any("backbone_weights" in o for o in args.overrides):
        options.append("model.pretrained_backbone_weights=null")
    own = ["--trainer", args.trainer, *options, *([f"data.cache={args.cache}"] if lightning else [])]
    stock = ["--trainer", "lerobot", *options]
    with tempfile.TemporaryDirectory() as folder:

        def run() -> Path:
            return Path(tempfile.mkdtemp(dir=folder)) / "run"

        kinds = {"ours": lambda: ours(own, run()), "native": lambda: native(stock_arguments(stock, run()))}
        found = take_turns(kinds, args.repeats)
    rows = {f"repeat {n}": row(*pair) for n, pair in enumerate(zip(found["ours"], found["native"], strict=True))}
    middle = (Timing(*map(statistics.median, zip(*timings, strict=True))) for timings in found.values())
    print(markdown(rows | {"median": row(*middle)}))


def row(mine: Timing, theirs: Timing) -> dict[str, str]:
    """One row of the table."""
    return {
        "steps/s": f"{mine.steps_per_s:.2f}",
        "native": f"{theirs.steps_per_s:.2f}",
        "ratio": f"{mine.steps_per_s / theirs.steps_per_s:.3f}",
        "s to process": f"{mine.process_s:.2f}",
        "s to first step": f"{mine.first_step_s:.1f}",
        "native s to first step": f"{theirs.first_step_s:.1f}",
    }


if __name__ == "__main__":
    main()
