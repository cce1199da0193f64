"""Statistics, table and plot of `study_few_labels.py`: cells of outcomes in, intervals out.

A cell is one trained policy: an arm, k labelled episodes a task, a seed; its outcomes are successes per task and
evaluation seed, the same seeds in every cell.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARMS = {
    "action": "actions only",
    "laq": "trained quantizer",
    "random": "random quantizer",
    "shuffled": "shuffled codes",
    "oracle": "all actions",
    "floor": "one update",
}
WITHOUT_K = ("oracle", "floor")
PAIRS = (("laq", "action"), ("laq", "random"), ("laq", "shuffled"))
_REPLICATES = 10_000


@dataclass(frozen=True)
class Cell:
    """One policy of the study.

    Args:
        arm: Of `ARMS`.
        k: Labelled episodes per task; 0 for those of `WITHOUT_K`, which have all.
        seed: Of the labelled subset, the initial weights and the order of samples.
    """

    arm: str
    k: int
    seed: int

    @property
    def name(self) -> str:
        """Folder of the cell."""
        return f"{self.arm}_k{self.k}_s{self.seed}"


def cells(ks: list[int], seeds: list[int], arms: list[str]) -> list[Cell]:
    """All cells, seed by seed, so that an interrupted study has whole seeds."""
    found = []
    for seed in seeds:
        found += [Cell(arm, 0, seed) for arm in arms if arm in WITHOUT_K]
        found += [Cell(arm, k, seed) for k in ks for arm in arms if arm not in WITHOUT_K]
    return found


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Evaluated episodes of a cell's `results.json`, by task and evaluation seed; empty: not evaluated."""
    path = folder / "eval" / "results.json"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf8"))["episodes"]
    return sorted(rows, key=lambda row: (row["task"], row["seed"]))


def read_outcomes(folder: Path) -> NDArray[np.float64] | None:
    """Successes ``[tasks, episodes]`` of a cell, tasks and seeds in order; None: not evaluated."""
    rows = read_rows(folder)
    tasks = sorted({row["task"] for row in rows})
    return np.array([[row["success"] for row in rows if row["task"] == t] for t in tasks], float) if rows else None


def bootstrap(outcomes: NDArray[np.float64], replicates: int = _REPLICATES, seed: int = 0) -> tuple[float, float]:
    """Stratified-bootstrap 95 % interval of the mean over training seeds, tasks and episodes.

    Training seeds are drawn anew, then episodes within each task; tasks stay, since they were chosen, not sampled.

    Args:
        outcomes: ``[seeds, tasks, episodes]``, or differences of two arms on the same seeds and episodes.
        replicates: Draws.
        seed: Of the draws.
    """
    seeds, tasks, episodes = outcomes.shape
    random = np.random.default_rng(seed)
    drawn = random.integers(seeds, size=(replicates, seeds, 1, 1))
    within = random.integers(episodes, size=(replicates, seeds, tasks, episodes))
    means = outcomes[drawn, np.arange(tasks)[None, None, :, None], within].mean((1, 2, 3))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def gather(root: Path, planned: list[Cell]) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Outcomes ``[seeds, tasks, episodes]`` by arm and k, of those whose every seed is evaluated."""
    groups: dict[tuple[str, int], list[NDArray[np.float64] | None]] = {}
    for cell in planned:
        groups.setdefault((cell.arm, cell.k), []).append(read_outcomes(root / cell.name))
    whole = {key: [row for row in rows if row is not None] for key, rows in groups.items()}
    return {key: np.stack(rows) for key, rows in whole.items() if len(rows) == len(groups[key])}


def table(found: dict[tuple[str, int], NDArray[np.float64]], ks: list[int]) -> str:
    """Success of every arm, and paired differences, as Markdown."""
    lines = ["| arm | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---" * (len(ks) + 1) + "|"]
    for arm, title in ARMS.items():
        row = [_cell(found.get((arm, 0 if arm in WITHOUT_K else k))) for k in ks]
        lines.append(f"| {title} | " + " | ".join(row) + " |")
    for a, b in PAIRS:
        row = []
        for k in ks:
            both = (a, k) in found and (b, k) in found
            row.append(_cell(found[a, k] - found[b, k], sign="+") if both else "")
        lines.append(f"| {ARMS[a]} minus {ARMS[b]} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _cell(outcomes: NDArray[np.float64] | None, sign: str = "") -> str:
    if outcomes is None:
        return ""
    low, high = bootstrap(outcomes)
    return f"{outcomes.mean():{sign}.1%} ({low:{sign}.0%} to {high:{sign}.0%})"


def write_csv(root: Path, planned: list[Cell], path: Path) -> None:
    """One row for every evaluated episode: enough to make all intervals again."""
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arm", "k", "seed", "task", "evaluation_seed", "success"])
        for cell in planned:
            for row in read_rows(root / cell.name):
                writer.writerow([cell.arm, cell.k, cell.seed, row["task"], row["seed"], int(row["success"])])


def plot(found: dict[tuple[str, int], NDArray[np.float64]], ks: list[int], path: Path) -> None:
    """Success over k with intervals, the oracle as a band, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    arms = [arm for arm in ARMS if arm not in WITHOUT_K]
    for position, arm in enumerate(arms):
        shown = [(i, found[arm, k]) for i, k in enumerate(ks) if (arm, k) in found]
        if not shown:
            continue
        at = [i + (position - (len(arms) - 1) / 2) * 0.08 for i, _ in shown]
        means = np.array([100 * outcomes.mean() for _, outcomes in shown])
        bounds = 100 * np.array([bootstrap(outcomes) for _, outcomes in shown])
        axes.errorbar(at, means, np.abs(bounds.T - means), marker="o", capsize=3, label=ARMS[arm])
    for arm, style in zip(WITHOUT_K, ("--", ":"), strict=True):
        if (arm, 0) in found:
            low, high = bootstrap(found[arm, 0])
            axes.axhspan(100 * low, 100 * high, color="grey", alpha=0.15)
            axes.axhline(100 * found[arm, 0].mean(), color="grey", linestyle=style, label=ARMS[arm])
    axes.set_xticks(range(len(ks)), [str(k) for k in ks])
    axes.set(xlabel="labelled episodes per task", ylabel="success, %", ylim=(-3, 103))
    axes.legend(fontsize="small")
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
