"""What exporting changes: error, latency and success of trained policies, in every format and with smaller weights.

    python scripts/bench_export.py RUN [RUN ...] --output FOLDER [--ways onnx ...] [--episodes 20] [--json]

Every run is exported in each way, and rolled out beside its checkpoint on the tasks of its data: the same first
states, the same noise. `difference` is of the success rates, exported less eager, with its paired interval of 95 %.
Latencies are from an observation to a chunk, with OMP_NUM_THREADS threads, both measured in turn. Exports and results
that are in FOLDER already are not made again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WAYS: dict[str, tuple[str, str | None]] = {kind: (kind, None) for kind in ("onnx", "openvino", "torch")}
WAYS |= {f"{kind}_{q}": (kind, q) for kind, q in (("onnx", "int8"), ("openvino", "int8"), ("openvino", "bf16"))}
COLUMNS = (
    *("policy", "format", "weights", "error", "eager p50 / p99 (ms)", "exported p50 / p99 (ms)"),
    *("success eager", "exported", "difference"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    rows = [row for run in asked.runs for row in measure(run, asked)]
    if asked.json:
        print(json.dumps(rows))
        return
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")


def measure(run: Path, asked: argparse.Namespace) -> list[dict[str, str]]:
    """Rows of the table for one run."""
    output = asked.output
    flags = ["--episodes", str(asked.episodes), "--seed", str(asked.seed), "--videos", "0", "--device", "cpu"]
    eager = output / f"{run.name}_eager"
    if not (eager / "results.json").is_file():
        hlrp("eval", run, *flags, "--output", eager)
    rows = []
    for way in asked.ways:
        kind, quantize = WAYS[way]
        name = f"{run.name}_{way}"
        export, results = output / name, output / f"{name}_eval"
        if not export.is_dir():
            smaller = ["--quantize", quantize] if quantize else []
            hlrp("export", run, "--format", kind, *smaller, "--output", export)
        if not (results / "results.json").is_file():
            # Exit code 1 says that it is worse, which the row does too.
            hlrp("eval", export, *flags, "--output", results, "--compare", eager / "results.json", worse=True)
        rows.append(_row(json.loads((export / "manifest.json").read_text()), *map(_results, (eager, results))))
    return rows


def _results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def _row(manifest: dict[str, Any], eager: dict[str, Any], exported: dict[str, Any]) -> dict[str, str]:
    check, latency, compared = manifest["check"], manifest["latency"], exported["comparison"]
    low, high = compared["interval"]

    def milliseconds(way: str) -> str:
        return f"{latency[way]['p50_ms']:.1f} / {latency[way]['p99_ms']:.1f}"

    def successes(results: dict[str, Any]) -> str:
        return f"{results['overall']['successes']}/{results['overall']['episodes']}"

    return {
        "policy": manifest["policy"],
        "format": manifest["format"],
        "weights": manifest["quantize"] or "float32",
        "error": f"{check.get('quantized_max_error', check['max_error']):.1e}",
        "eager": milliseconds("eager"),
        "exported": milliseconds("exported"),
        "success eager": successes(eager),
        "success": successes(exported),
        "difference": f"{100 * compared['difference']:+.0f} % ({100 * low:+.0f} to {100 * high:+.0f})",
    }


def hlrp(*args: str | Path, worse: bool = False) -> None:
    """Run a command of this project."""
    argv = [sys.executable, "-m", "hlrp_cli.main", *map(str, args)]
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in ((0, 1) if worse else (0,)):
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}")


if __name__ == "__main__":
    main()
