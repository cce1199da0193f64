"""The study of few action labels: which of its cells are done, and what its report says of known outcomes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import study_few_labels
from few_labels import records, report
from few_labels.design import (
    EVALUATION_SEEDS,
    SUGGESTED,
    TASKS,
    Cell,
    cells,
    fingerprint,
)
from few_labels.trust import Scores, Situation


def outcome_rows(cell: Cell, success: object, trust: float | None = None) -> list[records.Row]:
    """A cell's rows; ``success`` is one number or [T, E]."""
    values = np.broadcast_to(np.asarray(success), (len(TASKS), len(EVALUATION_SEEDS)))
    outcomes = {(t, s): bool(values[i, j]) for i, t in enumerate(TASKS) for j, s in enumerate(EVALUATION_SEEDS)}
    return study_few_labels.rows_of(cell, outcomes, "" if trust is None else f"{trust:.3f}", "", 12.3)


def test_a_cell_is_done_when_its_rows_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "rows.csv"
    first, second = Cell("ridge", "actions", 2, 0), Cell("ridge", "pseudo_laq", 2, 0)
    records.append(path, outcome_rows(first, 1))
    records.append(path, outcome_rows(second, 0))
    records.append(path, outcome_rows(second, 1))
    rows = records.read_rows(path)
    assert len(rows) == 2 * len(TASKS), "a cell that is done again replaces its rows"
    assert all(row.outcomes == [1] * len(EVALUATION_SEEDS) for row in rows)
    assert records.done_cells(rows) == {first, second}
    # Rows of a study with other settings are kept, and count for nothing.
    old = [replace(row, study="other", seed=3) for row in outcome_rows(first, 1)]
    records.append(path, old)
    assert records.done_cells(records.read_rows(path)) == {first, second}
    assert fingerprint("ridge") != fingerprint("neural")
    command = ["study", "--output", str(tmp_path / "out"), "--csv", str(path), "--arms", "actions", "pseudo_laq"]
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "0"])
    study_few_labels.main()
    assert "all of these cells are done" in capsys.readouterr().out
    assert not (tmp_path / "out").exists(), "nothing is recorded for a study that is done"


def test_actions_only_of_a_draw_without_late_actions_are_those_of_the_ridge_tier() -> None:
    late, on_time = (
        next(seed for seed in range(12) if bool(Situation.of(seed).late) is is_late) for is_late in (True, False)
    )
    rows = [row for seed in (late, on_time) for row in outcome_rows(Cell("ridge", "actions", 2, seed), 1)]
    found = study_few_labels.known_rows(Cell("trust", "actions", 2, on_time), rows)
    assert records.done_cells(found) == {Cell("trust", "actions", 2, on_time)}
    assert [row.successes for row in found] == ["1" * len(EVALUATION_SEEDS)] * len(TASKS)
    others = [("trust", "actions", 2, late), ("trust", "pseudo_own", 2, on_time), ("trust", "actions", 1, on_time)]
    assert not any(study_few_labels.known_rows(Cell(*other), rows) for other in others)


def test_cells_come_seed_by_seed_and_once() -> None:
    planned = cells("ridge", ["actions", "all"], [1, 2], [4, 5])
    assert planned[0] == Cell("ridge", "actions", 1, 4)
    assert planned.count(Cell("ridge", "all", 0, 0)) == 1 and len(planned) == 5
    assert len(cells("neural", ["actions", "all"], [2], [4, 5])) == 4


def test_intervals_and_tests_of_known_outcomes() -> None:
    rng = np.random.default_rng(0)
    sure, coin = np.ones((2, 2, 10)), (rng.random((2, 2, 10)) < 0.5).astype(float)
    assert report.bootstrap(sure) == (1.0, 1.0)
    low, high = report.bootstrap(coin)
    assert low < coin.mean() < high and 0.2 < high - low < 0.7
    narrow = report.bootstrap((rng.random((20, 2, 50)) < 0.5).astype(float))
    assert narrow[1] - narrow[0] < 0.2 < high - low
    # Draws that differ widen the interval, however many episodes each has.
    differing = np.repeat([0.0, 1.0], 200).reshape(2, 2, 100)
    assert report.bootstrap(differing) == (0.0, 1.0)
    assert report.sign_test(np.array([0.1] * 9 + [-0.1, 0.0])) == (9, 1, pytest.approx(22 / 1024))
    assert report.sign_test(np.zeros(3)) == (0, 0, 1.0)
    rho, p = report.rank_correlation(np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 3, 5, 7, 11, 13]))
    assert rho == pytest.approx(1) and p == pytest.approx(2 / 720, abs=0.002)
    assert report.rank_correlation(np.array([1.0, 2, 2, 3]), np.array([1.0, 3, 2, 4]))[0] == pytest.approx(
        0.9487, abs=1e-4
    )


def test_the_report_pairs_draws_and_says_what_is_there(tmp_path: Path) -> None:
    rows: list[records.Row] = []
    half = np.arange(len(EVALUATION_SEEDS)) % 2
    for seed in range(6):
        rows += outcome_rows(Cell("ridge", "actions", 2, seed), half)
        rows += outcome_rows(Cell("ridge", "pseudo_laq", 2, seed), 1, trust=0.4 + 0.1 * seed)
    rows += outcome_rows(Cell("ridge", "pseudo_random", 2, 5), 0, trust=0.2)
    rows += outcome_rows(Cell("ridge", "actions", 2, SUGGESTED), 1)
    # Of one task alone, the third as the study names them.
    rows += outcome_rows(Cell("ridge", "all", 0, 0), np.array([[0], [0], [1], [0]]))
    rows += [replace(row, study="other") for row in outcome_rows(Cell("ridge", "latent", 2, 0), 1)]
    rows += outcome_rows(Cell("ridge", "latent_shuffled", 2, 0), 1)[:-1]
    rows += [replace(row, successes="1") for row in outcome_rows(Cell("ridge", "pseudo_frames", 2, 0), 1)]
    report.write_report(rows, {}, tmp_path)
    lines = (tmp_path / "few_labels_table.md").read_text().splitlines()
    assert any(line.startswith("| actions only | 50% (") and line.endswith("), 6 |") for line in lines)
    assert "| pseudo-labels from LAQ | 100% (100% to 100%), 6 |" in lines
    gain = next(line for line in lines if line.startswith("| pseudo-labels from LAQ minus actions only"))
    assert "+50%" in gain and "6 of 6 draws, p = 0.031" in gain
    assert any(line.startswith("| **pseudo-labels from LAQ minus") and "+100%" in line for line in lines)
    assert not any("latents predicted" in line or "shuffled" in line for line in lines), (
        "other studies, unfinished cells"
    )
    # Cells of the trained quantizer have trust 0.4 and more, and succeed; that of the random one has 0.2, and does not.
    assert "- Over all 7 cells of 2 kinds of latents, trust and success: +0.61." in lines
    assert any("7 of them that can be paired, trust and gain" in line and "1 gain nothing" in line for line in lines)
    suggested = "suggested episodes 100%; of 6 draws the mean is 50%, 6 are worse and 0 better"
    assert any(suggested in line for line in lines)
    tasks = next(line for line in lines if line.startswith("| arm | button")).split(" | ")
    of_all = [line for line in lines if line.startswith("| all actions |")][-1].removesuffix(" |").split(" | ")
    assert tasks[of_all.index("100%")].removesuffix(" |") == TASKS[2].removesuffix("-v3")
    assert (tmp_path / "few_labels_ridge.svg").read_text().count("<path") > 10
    assert not (tmp_path / "few_labels_neural.svg").exists()


def test_the_report_says_whom_the_map_warned(tmp_path: Path) -> None:
    """Six draws: trust and gain rise together but for one, which is refused although it gains."""
    half = np.arange(len(EVALUATION_SEEDS)) % 2
    few, most = np.arange(len(EVALUATION_SEEDS)) < 2, np.arange(len(EVALUATION_SEEDS)) >= 2
    rows: list[records.Row] = []
    scores = {}
    told = [(0, few, 0.1, 0.0), (1, 0 * half, 0.2, -0.1), (2, half, 0.6, 0.55), (3, most, 0.55, 0.4), (4, 1, 0.8, 0.7)]
    for seed, success, r2, lowest in told:
        rows += outcome_rows(Cell("trust", "actions", 2, seed), half)
        rows += outcome_rows(Cell("trust", "pseudo_own", 2, seed), success, trust=r2)
        scores[seed, 2] = Scores(seed, 2, int(lowest < 0.5), r2, lowest, lowest, lowest)
    rows += outcome_rows(Cell("trust", "pseudo_own", 2, 5), half, trust=0.9)  # cannot be paired
    report.write_report(rows, scores, tmp_path)
    lines = (tmp_path / "few_labels_table.md").read_text().splitlines()
    # Ranks of the gain in the order of trust: 1, 0, 3, 2, 4.
    assert any(line.startswith("- **Rank correlation of mean R2") and "5 draws: +0.80**" in line for line in lines)
    assert any(line.startswith("- Rank correlation of R2 of the lowest dim") and "+0.90 " in line for line in lines)
    assert (
        "- 3 draws gain nothing or lose; `hlrp pseudo-label` refuses 2 of them, and 2 have a mean R2 below the floor."
        in lines
    )
    # Of the gains -40, -50 and +40 points, and 0 and +50.
    assert "- Mean gain of the 3 draws that it refuses: -17%." in lines
    assert "- Mean gain of the 2 draws that it accepts: +25%." in lines
    assert "- 2 draws gain; `hlrp pseudo-label` refuses 1 of them, and 0 have a mean R2 below the floor." in lines
    draws = [line.split(" | ")[0] for line in lines if "% | +" in line or "% | -" in line]
    assert draws == ["| 0", "| 1", "| 3", "| 2", "| 4"]
    assert (tmp_path / "few_labels_trust.svg").is_file()
