"""Table and plots of the study: rows of the CSV in, intervals out.

Shapes: S draws of labelled episodes, T tasks, E evaluation episodes of a task.
"""

from dataclasses import dataclass, replace
from math import comb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from few_labels.design import ARMS, ENDPOINTS, EVALUATION_SEEDS, SUGGESTED, TASKS, TIER_ARMS, Cell, Tier
from few_labels.records import Row, by_cell
from few_labels.trust import Scores, Situation
from hlrp.latents.action_scores import FLOOR

Outcomes = NDArray[np.float64]
PAIRS = (
    *ENDPOINTS,
    ("pseudo_laq", "actions"),
    ("pseudo_laq", "pseudo_pixels"),
    ("pseudo_laq", "pseudo_frames"),
    ("pseudo_grounded", "pseudo_laq"),
    ("pseudo_features", "pseudo_laq"),
    ("pseudo_own", "actions"),
    ("latent", "actions"),
    ("all", "actions"),
)
SCORES = {
    "r2": "mean R2",
    "lowest": "R2 of the lowest dimension",
    "lowest_task": "R2 of the lowest task",
    "lowest_entry": "R2 of the lowest task and dimension",
}
_REPLICATES = 10_000
_NO_DRAW = {"ridge": ("all",), "moving": ("all",), "trust": (), "neural": ()}


@dataclass(frozen=True)
class Results:
    """Outcomes of one tier.

    Args:
        tier: The tier.
        cells: Successes ``[T, E]`` of each cell; tasks by name.
        trust: Of each cell that has a map from latents to actions, its R2 on labelled episodes that were left out.
    """

    tier: Tier
    cells: dict[Cell, Outcomes]
    trust: dict[Cell, float]

    @classmethod
    def of(cls, tier: Tier, rows: list[Row]) -> "Results":
        """Those of the rows that are of this study and whole."""
        found = {cell: mine for cell, mine in by_cell(rows).items() if cell.tier == tier}
        whole = {
            cell: mine
            for cell, mine in found.items()
            if [len(row.successes) for row in mine] == [len(EVALUATION_SEEDS)] * len(TASKS)
        }
        outcomes: dict[Cell, Outcomes] = {
            cell: np.array([row.outcomes for row in mine], float) for cell, mine in whole.items()
        }
        trust = {cell: float(mine[0].trust) for cell, mine in whole.items() if mine[0].trust}
        return cls(tier, outcomes, trust)

    def seeds(self, arm: str, k: int) -> list[int]:
        """Draws that an arm has, without the suggested one; ascending."""
        return sorted(c.seed for c in self.cells if (c.arm, c.k) == (arm, self.k(arm, k)) and c.seed != SUGGESTED)

    def k(self, arm: str, k: int) -> int:
        """0 for the arm that has all labels."""
        return 0 if arm == "all" else k

    def of_arm(self, arm: str, k: int, seeds: list[int]) -> Outcomes:
        """``[S, T, E]``; an arm that no draw changes is repeated."""
        same = arm in _NO_DRAW[self.tier]
        return np.stack([self.cells[Cell(self.tier, arm, self.k(arm, k), 0 if same else seed)] for seed in seeds])

    def difference(self, a: str, b: str, k: int) -> Outcomes | None:
        """Paired by draw and episode, ``[S, T, E]``; None where the two have no draw in common."""
        both = [self.seeds(arm, k) for arm in (a, b) if arm not in _NO_DRAW[self.tier]]
        seeds = sorted(set(both[0]).intersection(*both[1:]))
        if not seeds or any(not self.seeds(arm, k) for arm in (a, b)):
            return None
        return self.of_arm(a, k, seeds) - self.of_arm(b, k, seeds)


def bootstrap(outcomes: Outcomes, replicates: int = _REPLICATES, seed: int = 0) -> tuple[float, float]:
    """Stratified-bootstrap 95 % interval of the mean over draws, tasks and episodes.

    Draws are drawn anew, then episodes within each task; tasks stay, since they were chosen, not sampled.

    Args:
        outcomes: ``[S, T, E]``, or differences of two arms on the same draws and episodes.
        replicates: Samples.
        seed: Of the samples.
    """
    draws, tasks, episodes = outcomes.shape
    random = np.random.default_rng(seed)
    drawn = random.integers(draws, size=(replicates, draws))
    means = np.empty(replicates)
    for start in range(0, replicates, 500):
        part = drawn[start : start + 500]
        # The same first states in every draw: they are drawn anew once for all.
        within = random.integers(episodes, size=(len(part), 1, tasks, episodes))
        at = (part[:, :, None, None], np.arange(tasks)[None, None, :, None], within)
        means[start : start + 500] = outcomes[at].mean((1, 2, 3))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def sign_test(differences: Outcomes) -> tuple[int, int, float]:
    """Draws in which the first was better, in which it was worse, and the two-sided p of a fair coin.

    Args:
        differences: ``[S]``; zeros are left out.
    """
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    n = better + worse
    tail = sum(comb(n, i) for i in range(min(better, worse) + 1)) / 2**n
    return better, worse, min(1.0, 2 * tail)


def rank_correlation(a: Outcomes, b: Outcomes, seed: int = 0) -> tuple[float, float]:
    """Spearman's rank correlation of two ``[S]``, and the two-sided p of random pairings."""

    def ranks(values: Outcomes) -> Outcomes:
        # Equal values share the mean of their ranks.
        return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])

    x, y = ranks(a) - (len(a) - 1) / 2, ranks(b) - (len(b) - 1) / 2
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    if scale == 0:
        return 0.0, 1.0
    random = np.random.default_rng(seed)
    paired = np.array([(x * random.permutation(y)).sum() for _ in range(_REPLICATES)]) / scale
    rho = float((x * y).sum() / scale)
    return rho, float((1 + (np.abs(paired) >= abs(rho) - 1e-12).sum()) / (1 + _REPLICATES))


def success_table(results: Results, ks: list[int]) -> list[str]:
    """Success of every arm as Markdown."""
    lines = ["| arm | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---" * (len(ks) + 1) + "|"]
    for arm in TIER_ARMS[results.tier]:
        row = []
        for k in ks:
            seeds = results.seeds(arm, k)
            row.append(_interval(results.of_arm(arm, k, seeds)) + f", {len(seeds)}" if seeds else "")
        if any(row):
            lines.append(f"| {ARMS[arm]} | " + " | ".join(row) + " |")
    return lines


def difference_table(results: Results, ks: list[int]) -> list[str]:
    """Paired differences, their intervals and the sign test over draws."""
    lines = ["| difference | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---" * (len(ks) + 1) + "|"]
    for a, b in PAIRS:
        row = []
        for k in ks:
            found = results.difference(a, b, k)
            if found is None:
                row.append("")
                continue
            better, worse, p = sign_test(found.mean((1, 2)))
            row.append(f"{_interval(found, sign='+')}; {better} of {better + worse} draws, p = {p:.2g}")
        if any(row):
            mark = "**" if (a, b) in ENDPOINTS else ""
            lines.append(f"| {mark}{ARMS[a]} minus {ARMS[b]}{mark} | " + " | ".join(row) + " |")
    return lines


def task_table(results: Results, k: int = 2) -> list[str]:
    """Success of every arm in each task."""
    names = [task.removesuffix("-v3") for task in sorted(TASKS)]
    lines = ["| arm | " + " | ".join(names) + " |", "|---" * (len(TASKS) + 1) + "|"]
    for arm in TIER_ARMS[results.tier]:
        seeds = results.seeds(arm, k)
        if seeds:
            means = results.of_arm(arm, k, seeds).mean((0, 2))
            lines.append(f"| {ARMS[arm]} | " + " | ".join(f"{mean:.0%}" for mean in means) + " |")
    return lines


def trust_lines(results: Results, k: int = 2) -> list[str]:
    """Does the map's own score tell the gain beforehand, and do suggested episodes do better than drawn ones?"""
    lines = []
    seeds = sorted({*results.seeds("pseudo_laq", k)} & {*results.seeds("actions", k)})
    if len(seeds) > 3:
        trust = np.array([results.trust[Cell(results.tier, "pseudo_laq", k, seed)] for seed in seeds])
        labelled = results.of_arm("pseudo_laq", k, seeds).mean((1, 2))
        for name, values in (
            ("gain over actions only", labelled - results.of_arm("actions", k, seeds).mean((1, 2))),
            ("success", labelled),
        ):
            rho, p = rank_correlation(trust, values)
            lines.append(f"- Rank correlation of trust and {name} over {len(seeds)} draws: {rho:+.2f} (p = {p:.2g}).")
    # A grounded quantizer has seen the labelled episodes, left out of the map or not: its trust is not comparable.
    comparable = [cell for cell in results.trust if cell.arm != "pseudo_grounded" and cell.seed != SUGGESTED]
    scored = [cell for cell in comparable if cell.k == k]
    kinds = {cell.arm for cell in scored}
    if len(kinds) > 1:
        trust = np.array([results.trust[cell] for cell in scored])
        rho, _ = rank_correlation(trust, np.array([results.cells[cell].mean() for cell in scored]))
        lines.append(f"- Over all {len(scored)} cells of {len(kinds)} kinds of latents, trust and success: {rho:+.2f}.")
        alone = {cell: results.cells.get(replace(cell, arm="actions")) for cell in scored}
        gains = {cell: results.cells[cell].mean() - each.mean() for cell, each in alone.items() if each is not None}
        if len(gains) > 3:
            rho, p = rank_correlation(np.array([results.trust[cell] for cell in gains]), np.array([*gains.values()]))
            lines.append(
                f"- Over {len(gains)} of them that can be paired, trust and gain over actions only: {rho:+.2f} "
                f"(p = {p:.2g}); {sum(gain <= 0 for gain in gains.values())} gain nothing."
            )
    for arm in ("actions", "pseudo_laq"):
        suggested = results.cells.get(Cell(results.tier, arm, k, SUGGESTED))
        seeds = results.seeds(arm, k)
        if suggested is not None and seeds:
            drawn = results.of_arm(arm, k, seeds).mean((1, 2))
            lines.append(
                f"- {ARMS[arm]}: suggested episodes {suggested.mean():.0%}; of {len(seeds)} draws the mean is "
                f"{drawn.mean():.0%}, {int((drawn < suggested.mean()).sum())} are worse and "
                f"{int((drawn > suggested.mean()).sum())} better."
            )
    return lines


def own_quantizer_lines(results: Results, scores: dict[tuple[int, int], Scores], k: int = 2) -> list[str]:
    """The tier `trust`: its draws, whether the scores rank them by gain, and which of them the floor refuses."""
    seeds = sorted(
        {*results.seeds("pseudo_own", k)} & {*results.seeds("actions", k)} & {s for s, j in scores if j == k}
    )
    alone, labelled = (results.of_arm(arm, k, seeds).mean((1, 2)) for arm in ("actions", "pseudo_own"))
    gains, mine = labelled - alone, [scores[seed, k] for seed in seeds]
    lines = [
        "| draw | quantizer: updates, video, codes | actions late by | R2 | lowest dimension | below the floor "
        "| actions only | pseudo-labels | gain |",
        "|---" * 9 + "|",
    ]
    for seed, its, a, b in sorted(zip(seeds, mine, alone, labelled, strict=True), key=lambda row: row[1].r2):
        has = Situation.of(seed)
        codes = f"{has.positions} of {has.codes}" + (" alone" if has.inputs == "codes" else ", vectors")
        numbers = f"{its.r2:.2f} | {its.lowest:.2f} | {its.below} | {a:.0%} | {b:.0%} | {b - a:+.0%}"
        lines.append(f"| {seed} | {has.steps}, {has.video}, {codes} | {has.late} | {numbers} |")
    lines.append("")
    for name, text in SCORES.items():
        rho, p = rank_correlation(np.array([getattr(its, name) for its in mine]), gains)
        mark = "**" if name == "r2" else ""
        lines.append(
            f"- {mark}Rank correlation of {text} and gain over actions only, {len(seeds)} draws: {rho:+.2f}{mark} "
            f"(p = {p:.2g})."
        )
    refused, distrusted = np.array([its.below > 0 for its in mine]), np.array([its.r2 < FLOOR for its in mine])
    for name, chosen in (("gain nothing or lose", gains <= 0), ("gain", gains > 0)):
        lines.append(
            f"- {chosen.sum()} draws {name}; `hlrp pseudo-label` refuses {(refused & chosen).sum()} of them, and "
            f"{(distrusted & chosen).sum()} have a mean R2 below the floor."
        )
    for name, chosen in (("refuses", refused), ("accepts", ~refused)):
        if chosen.any():
            lines.append(f"- Mean gain of the {chosen.sum()} draws that it {name}: {gains[chosen].mean():+.0%}.")
    return lines


def _interval(outcomes: Outcomes, sign: str = "") -> str:
    low, high = bootstrap(outcomes)
    return f"{outcomes.mean():{sign}.0%} ({low:{sign}.0%} to {high:{sign}.0%})"


def write_report(rows: list[Row], scores: dict[tuple[int, int], Scores], folder: Path) -> None:
    """Write `few_labels_table.md` and a plot for each tier; print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for tier in TIER_ARMS:
        results = Results.of(tier, rows)
        if not results.cells:
            continue
        ks = sorted({cell.k for cell in results.cells if cell.k})
        lines += [f"## Tier `{tier}`", "", "Success, 95 % interval, draws:", "", *success_table(results, ks), ""]
        lines += ["Differences; endpoints in bold:", "", *difference_table(results, ks), ""]
        trust = own_quantizer_lines(results, scores) if tier == "trust" else trust_lines(results)
        lines += ["By task, k = 2:", "", *task_table(results), "", *trust, ""]
        plot(results, folder / f"few_labels_{tier}.svg")
    text = "\n".join(lines)
    print(text)
    (folder / "few_labels_table.md").write_text(text.rstrip() + "\n", encoding="utf8")


def plot(results: Results, path: Path, k: int = 2) -> None:
    """Success of every arm at k with its interval and each draw, and gain over trust, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "few-labels"
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained", width_ratios=(4, 3))
    arms = [arm for arm in TIER_ARMS[results.tier] if results.seeds(arm, k)]
    for row, arm in enumerate(arms):
        outcomes = results.of_arm(arm, k, results.seeds(arm, k))
        each, (low, high) = 100 * outcomes.mean((1, 2)), bootstrap(outcomes)
        left.plot(each, np.full(len(each), row), ".", color="grey", alpha=0.6)
        left.plot([100 * low, 100 * high], [row, row], color="C0")
        left.plot(each.mean(), row, "o", color="C0")
    left.set_yticks(range(len(arms)), [ARMS[arm] for arm in arms])
    left.invert_yaxis()
    left.set(xlabel=f"success, %, k = {k}; dots are draws", xlim=(-3, 103))
    arm = "pseudo_own" if results.tier == "trust" else "pseudo_laq"
    seeds = sorted({*results.seeds(arm, k)} & {*results.seeds("actions", k)})
    if seeds:
        trust = [results.trust[Cell(results.tier, arm, k, seed)] for seed in seeds]
        gain = results.of_arm(arm, k, seeds) - results.of_arm("actions", k, seeds)
        right.plot(trust, 100 * gain.mean((1, 2)), "o")
        right.axhline(0, color="grey", linewidth=0.8)
    right.locator_params(axis="x", nbins=4)
    right.set(xlabel="R2 of the map, left-out episodes", ylabel="gain of pseudo-labels, points")
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
