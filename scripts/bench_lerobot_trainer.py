"""`hlrp train --trainer lerobot` against stock `lerobot-train` with the same arguments, in turn, in one run.

    python scripts/bench_lerobot_trainer.py --dataset-root DIR [--steps 300] [--repeats 2] [key=value ...]

Prints, per repeat and in the median: steady steps/s (after the first fifth of the steps), seconds until
LeRobot's own process is started, and seconds until the first logged step. Both get what `hlrp train --dry-run` shows.
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
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
STEP = re.compile(r"step:(\d+) smpl:")


@dataclass(frozen=True)
class Timing:
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
    parser.add_argument("--policy", default="act")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("overrides", nargs="*", help="key=value, as for hlrp train")
    args = parser.parse_args()
    options = ["--policy", args.policy, "--dataset-root", args.dataset_root, "--steps", str(args.steps)]
    options += ["--batch-size", str(args.batch_size), "--device", args.device, "trainer.log_freq=5", *args.overrides]
    options += (
        [] if any("backbone_weights" in o for o in args.overrides) else ["model.pretrained_backbone_weights=null"]
    )
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            arguments = stock_arguments(options, Path(folder) / f"native{repeat}")
            # Each goes first in turn: the machine's speed drifts, and the second finds warm file caches.
            if repeat % 2 == 0:
                theirs, mine = native(arguments), ours(options, Path(folder) / f"ours{repeat}")
            else:
                mine, theirs = ours(options, Path(folder) / f"ours{repeat}"), native(arguments)
            pairs.append((mine, theirs))
    print(f"{'':10}{'steps/s':>10}{'native':>10}{'ratio':>8}{'to process':>12}{'first step':>12}{'native':>10}")
    for number, (mine, theirs) in enumerate(pairs):
        show(f"repeat {number}", mine, theirs)
    show("median", median([m for m, _ in pairs]), median([t for _, t in pairs]))


def median(timings: list[Timing]) -> Timing:
    """The median of every column."""
    columns = zip(*((t.process_s, t.first_step_s, t.steps_per_s) for t in timings), strict=True)
    return Timing(*(statistics.median(c) for c in columns))


def show(name: str, mine: Timing, theirs: Timing) -> None:
    """Print one row."""
    ratio = mine.steps_per_s / theirs.steps_per_s
    print(
        f"{name:10}{mine.steps_per_s:>10.2f}{theirs.steps_per_s:>10.2f}{ratio:>8.3f}{mine.process_s:>11.2f}s"
        f"{mine.first_step_s:>11.1f}s{theirs.first_step_s:>9.1f}s"
    )


if __name__ == "__main__":
    main()
