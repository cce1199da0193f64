"""Do latents of video help a policy when few episodes have actions?

The question and the primary endpoints were written down before the study was run; all at k = 2 labelled episodes a
task, as a difference in success, paired by draw of labelled episodes and by evaluation episode:

1. `hlrp_vla_direct` whose vision-language model is a frozen foundation model, trained on the k episodes alone, minus a
   direct expert trained on the same episodes: arms `vla`, `actions`.
2. A policy trained on pseudo-labels that a map from the quantizer's latents gives all videos, the map fitted on the
   k episodes, minus the same with a quantizer of random weights: arms `pseudo_laq`, `pseudo_random`.
3. The latent expert, whose actions see the image only through its latents, minus the same with latents that are dealt
   out anew among all frames: arms `latent`, `latent_shuffled`.
4. Tier `trust`, written down after the others were run and before it was: does the map's own R2 on labelled episodes
   that are left out (the mean of the dimensions) tell whose pseudo-labels help? Twelve draws of what users differ in:
   the labelled episodes, the quantizer's seed, its updates (1 to 200, spread evenly in logarithm), the video it
   learned from (all, the labelled episodes alone, or other tasks), its codes and whether the map reads vectors beside
   them, and by how many frames the actions of each labelled episode were recorded late. Endpoint: the rank
   correlation, over draws 0 to 11, of that R2 with the gain in success over actions only, arms `pseudo_own`,
   `actions`; at least 0.5 was asked for, with its p over random pairings. Also counted: of the draws that gain nothing
   or lose, how many `hlrp pseudo-label` refuses (any dimension below its floor of 0.5), and of those that gain, how
   many. Two draws of a pilot (108 and 113) had gains of +19 and -17 points at R2 0.88 and 0.08.

Success of the first three: the 95 % interval lies above 0, and the sign test over draws says p < 0.05.

Nothing of an unlabelled episode but its video reaches a policy: no action, no state, no statistics of either. Policies
do not see the state. Every arm is trained to its plateau, not for equal updates.

Tiers: `ridge` policies from a picture's principal components to chunks of actions, 20 s of a core for a cell; `moving`,
the same while the camera drifts as if held by hand; `trust`, the same with a quantizer for each draw; `neural`, this
project's own policies. Cells (tier, arm, k, seed) that the CSV has are skipped, on any machine:
    python scripts/study_few_labels.py --tier ridge --output outputs/few --csv docs/few_labels.csv
Several processes share the work with --part 0/2 and --part 1/2; --report docs writes the table and the plots.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

# Cells are small and several processes share a machine: threads of linear algebra and of Mesa's renderer only disturb.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LP_NUM_THREADS", "0")
sys.path.insert(0, str(Path(__file__).parent))

from few_labels.design import (
    ARMS,
    EVALUATION_SEEDS,
    SUGGESTED,
    TASKS,
    TIER_ARMS,
    Cell,
    Places,
    cells,
    fingerprint,
)
from few_labels.records import Row, append, by_cell, done_cells, read_rows
from few_labels.trust import Scores, Situation, keep_scores, read_scores, scores_path

OFFSET_FRAMES = 8
"""Frames between the two of a window: the quantizer's 0.1 s at 80 frames a second."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of data, quantizers and policies")
    parser.add_argument("--csv", type=Path, default=Path("docs/few_labels.csv"), help="rows that are done are added")
    parser.add_argument("--tier", choices=list(TIER_ARMS), default="ridge")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="all of the tier if left out")
    parser.add_argument("--k", type=int, nargs="+", default=[2], help="labelled episodes a task")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(range(12)), help=f"{SUGGESTED}: suggested episodes"
    )
    parser.add_argument("--part", default="0/1", help="I/N: this process takes every N-th cell from the I-th on")
    parser.add_argument("--report", type=Path, help="only write the table and the plots to this folder")
    args = parser.parse_args()
    args.arms = args.arms or list(TIER_ARMS[args.tier])
    foreign = set(args.arms) - set(TIER_ARMS[args.tier])
    if foreign:
        parser.error(f"the tier {args.tier} has no arm {', '.join(sorted(foreign))}")
    return args


def run_ridge(cell: Cell, places: Places, scores: Path) -> list[Row]:
    """Fit and roll out a cell of a cheap tier; what a draw's own map says of itself goes to the file ``scores``."""
    from few_labels.inputs import make_own_latents
    from few_labels.labels import labelled_episodes
    from few_labels.ridge_policy import make_policy, roll_out
    from few_labels.videos import read_videos

    started = time.monotonic()
    videos = read_videos(places.data, OFFSET_FRAMES, places.root / "components.npz")
    labelled = labelled_episodes(videos.info, places, cell)
    make_own_latents(cell, places, labelled)
    policy, labels = make_policy(cell, videos, places, labelled)
    if cell.tier == "trust" and labels is not None:
        keep_scores(scores, Scores.of(cell.seed, cell.k, labels.decoder.manifest))
    outcomes = roll_out(policy, videos.basis, camera_shake=places.camera_shake)
    trust, r2 = (f"{labels.trust:.3f}", f"{labels.unlabelled_r2:.3f}") if labels else ("", "")
    return rows_of(cell, outcomes, trust, r2, time.monotonic() - started)


def known_rows(cell: Cell, rows: list[Row]) -> list[Row]:
    """Rows of a cell of the tier `trust` that is one of the tier `ridge`: actions only, and none of them late."""
    if (cell.tier, cell.arm) != ("trust", "actions") or Situation.of(cell.seed).late:
        return []
    same = by_cell(rows).get(replace(cell, tier="ridge"), [])
    return [replace(row, tier="trust", study=fingerprint("trust")) for row in same]


def rows_of(cell: Cell, outcomes: dict[tuple[str, int], bool], trust: str, r2: str, seconds: float) -> list[Row]:
    """A cell's rows."""
    shared = {"trust": trust, "unlabelled_r2": r2, "seconds": round(seconds), "study": fingerprint(cell.tier)}
    named = {"tier": cell.tier, "arm": cell.arm, "k": cell.k, "seed": cell.seed}
    successes = {task: "".join(str(int(outcomes[task, seed])) for seed in EVALUATION_SEEDS) for task in TASKS}
    return [Row(**named, task=task, successes=text, **shared) for task, text in successes.items()]


def main() -> None:
    """Run this process's cells, or write the report."""
    args = parse()
    if args.report is not None:
        from few_labels.report import write_report

        write_report(read_rows(args.csv), read_scores(scores_path(args.csv)), args.report)
        return
    from few_labels.inputs import make_inputs

    places = Places.of(args.output, args.tier)
    index, count = map(int, args.part.split("/"))
    planned = cells(args.tier, args.arms, args.k, args.seeds)[index::count]
    if not {*planned} - done_cells(read_rows(args.csv)):
        print("all of these cells are done", flush=True)
        return
    make_inputs(places, args.tier)
    for cell in planned:
        if cell in done_cells(read_rows(args.csv)):
            continue
        if args.tier == "neural":
            from few_labels.neural import run_neural

            rows = run_neural(cell, places, rows_of)
        else:
            rows = known_rows(cell, read_rows(args.csv)) or run_ridge(cell, places, scores_path(args.csv))
        append(args.csv, rows)
        outcomes = [outcome for row in rows for outcome in row.outcomes]
        print(f"{cell.name}: {sum(outcomes) / len(outcomes):.0%} in {rows[0].seconds} s", flush=True)


if __name__ == "__main__":
    main()
