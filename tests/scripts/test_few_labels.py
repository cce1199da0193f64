"""The study of few action labels: what it draws, deals out and counts, and that it goes on where it was cut off."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from make_dataset import make_dataset
from make_labels import make_quantizer

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import few_labels_report
import study_few_labels

from hlrp.data import read_dataset, read_episodes
from hlrp.latents.table import LatentTable
from hlrp.runs import RunDirectory


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 episodes of two tasks in turn."""
    tasks = ("push the square", "pull it")
    return make_dataset(tmp_path_factory.mktemp("few") / "squares", episodes=8, length=16, size=96, tasks=tasks)


@pytest.fixture(scope="module")
def args(root: Path, tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    folder = tmp_path_factory.mktemp("study")
    laq = make_quantizer(folder / "laq")
    named = {"dataset_root": root, "laq": laq, "output": folder / "out", "backbone": "tiny", "device": "cpu"}
    (folder / "out").mkdir()
    return argparse.Namespace(**named, k=[1, 2], seeds=[0], steps=4, batch_size=4, episodes=0)


def test_labelled_episodes_are_nested_and_of_every_task(root: Path) -> None:
    task = read_episodes(read_dataset(None, root)).task
    for seed in range(5):
        drawn = [set(study_few_labels.labelled_episodes(root, k, seed)) for k in (1, 2, 4)]
        assert drawn[0] < drawn[1] < drawn[2] == set(range(8))
        assert [sorted(task[e] for e in group) for group in drawn[:2]] == [
            sorted(["push the square", "pull it"] * k) for k in (1, 2)
        ]
    assert len({tuple(study_few_labels.labelled_episodes(root, 1, seed)) for seed in range(8)}) > 1


def test_shuffled_codes_are_the_same_codes_at_other_frames(args: argparse.Namespace) -> None:
    made = study_few_labels.shared_table("random", args, 0)
    study_few_labels.shuffle_table(made, args.output / "dealt", seed=1)
    plain, shuffled = LatentTable.open(made), LatentTable.open(args.output / "dealt")
    index = torch.arange(128)
    (codes, valid), (moved, still_valid) = plain.codes(index), shuffled.codes(index)
    assert torch.equal(valid, still_valid) and not valid.all()
    rows = valid.all(1)
    assert not torch.equal(codes[rows], moved[rows])
    assert sorted(map(str, codes[rows].tolist())) == sorted(map(str, moved[rows].tolist()))
    trained = LatentTable.open(study_few_labels.shared_table("laq", args, 0))
    assert trained.identity.laq_sha256 != plain.identity.laq_sha256
    assert len(codes[rows].unique()) > 1


def test_a_cell_learns_from_both_halves_and_goes_on_where_it_was_cut_off(args: argparse.Namespace) -> None:
    cell = few_labels_report.Cell("laq", 1, 0)
    run = RunDirectory.open(study_few_labels.train(cell, args))
    rows = [row for row in run.metrics() if "action_labelled" in row]
    assert 0.2 < np.mean([row["action_labelled"] for row in rows]) < 0.8, "half of the frames have actions"
    config = json.loads((run.path / "checkpoints/000004/pretrained_model/config.json").read_text())
    assert config["labelled_episodes"] == study_few_labels.labelled_episodes(args.dataset_root, 1, 0)
    weights = run.path / "checkpoints/000004/pretrained_model/model.safetensors"
    whole, before = weights.read_bytes(), weights.stat().st_mtime_ns
    study_few_labels.train(cell, args)
    assert weights.stat().st_mtime_ns == before, "a finished cell was trained again"

    # As after a kill at step 2: a checkpoint of that step, and a run that is not finished.
    args.output = args.output.with_name("again")
    args.output.mkdir()
    args.steps = 2
    cut = RunDirectory.open(study_few_labels.train(cell, args))
    args.steps = 4
    for name in ("config.yaml", "run.json"):
        text = (cut.path / name).read_text().replace("steps: 2", "steps: 4").replace('"finished"', '"running"')
        (cut.path / name).write_text(text)
    study_few_labels.train(cell, args)
    assert RunDirectory.open(cut.path).manifest.resumed[0].step == 2
    assert len(whole) == (cut.path / "checkpoints/000004/pretrained_model/model.safetensors").stat().st_size


def test_intervals_and_table(tmp_path: Path) -> None:
    """Known outcomes: no spread gives a point, more seeds a narrower interval, pairs are taken seed by seed."""
    rng = np.random.default_rng(0)
    sure, coin = np.ones((2, 2, 10)), (rng.random((2, 2, 10)) < 0.5).astype(float)
    assert few_labels_report.bootstrap(sure) == (1.0, 1.0)
    low, high = few_labels_report.bootstrap(coin)
    assert low < coin.mean() < high and 0.2 < high - low < 0.6
    many = (rng.random((20, 2, 50)) < 0.5).astype(float)
    narrow = few_labels_report.bootstrap(many)
    assert narrow[1] - narrow[0] < 0.1 < high - low
    assert few_labels_report.bootstrap(coin - coin) == (0.0, 0.0)
    found = {("laq", 2): sure, ("action", 2): coin, ("oracle", 0): sure, ("floor", 0): 0 * coin}
    lines = few_labels_report.table(found, [2, 5]).splitlines()
    assert "| trained quantizer | 100.0% (100% to 100%) |  |" in lines
    assert any(line.startswith(f"| trained quantizer minus actions only | {1 - coin.mean():+.1%}") for line in lines)
    few_labels_report.plot(found, [2, 5], tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("<path") > 10


def test_outcomes_are_in_the_order_of_tasks_and_seeds(tmp_path: Path) -> None:
    episodes = [{"task": t, "seed": s, "success": t == "b" and s == 2} for s in (2, 1) for t in ("b", "a")]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/results.json").write_text(json.dumps({"episodes": episodes}))
    found = few_labels_report.read_outcomes(tmp_path)
    assert found is not None and found.tolist() == [[0, 0], [0, 1]]
    assert few_labels_report.read_outcomes(tmp_path / "eval") is None
    tmp_path.joinpath("eval").rename(tmp_path / "moved")
    (tmp_path / "laq_k2_s7").mkdir()
    (tmp_path / "moved").rename(tmp_path / "laq_k2_s7" / "eval")
    planned = few_labels_report.cells([2], [7], ["laq", "action"])
    few_labels_report.write_csv(tmp_path, planned, tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[-1] == "laq,2,7,b,2,1", "the cell that is not evaluated leaves no rows"
    assert few_labels_report.gather(tmp_path, planned).keys() == {("laq", 2)}


def test_cells_of_another_study_are_not_mixed_in(args: argparse.Namespace) -> None:
    study_few_labels.same_study(args)
    study_few_labels.same_study(args)
    with pytest.raises(SystemExit, match="steps 4, now 5"):
        study_few_labels.same_study(argparse.Namespace(**{**vars(args), "steps": 5}))
