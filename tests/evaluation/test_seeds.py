"""Runs beside each other: grouped by what differs but the seed, with Student's intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import hlrp
from safetensors.numpy import save_file

from hlrp.errors import UserError
from hlrp.evaluation.request import Episode, EvalResult, TaskResult
from hlrp.evaluation.seeds import compare_runs, table
from hlrp.evaluation.statistics import MeanInterval, mean_interval, student_quantile
from hlrp.runs import RunDirectory


def _run(
    path: Path, rate: float, seed: int, loss: float, *, outcomes: str = "", status: str = "finished"
) -> RunDirectory:
    yaml = f"trainer: {{learning_rate: {rate}, seed: {seed}, steps: 10}}\noutput_dir: {path}\n"
    run = RunDirectory.create(path, config_yaml=yaml, trainer="lightning")
    rows = [{"step": 5, "loss": 9.0, "val_loss": 2.0}, {"step": 10, "loss": loss}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if outcomes:
        # What a training evaluated on its way, and trials on a robot, are no `success`.
        for name, some in (("eval/a", outcomes), ("eval/step_000010", "+-------"), ("rollout/a", "+-------")):
            _evaluate(path, name, some)
    run.update(status=status)
    return run


def _evaluate(
    run: Path,
    name: str,
    outcomes: str,
    *,
    created: str = "2026-05-01T10:00:00",
    checkpoint: str = "checkpoints/000010",
    task: str = "push-v3",
    seed: int = 1000,
) -> Path:
    """What an evaluation of a checkpoint leaves, whose newest is 000010; outcomes as in `++-`."""
    pretrained = run / checkpoint / "pretrained_model"
    env = {"type": "metaworld_light", "config": {"episode_length": 20}}
    policy = {"path": str(pretrained), "step": int(checkpoint[-6:])}
    episodes = [Episode(task, i, seed + i, letter == "+", 0.0, 9) for i, letter in enumerate(outcomes)]
    said = {"created": created, "policy": policy, "env": env, "seed": seed}
    file = run / name / "results.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(EvalResult(file.parent, said, [TaskResult(task, episodes)]).to_json()))
    return file


def _told(problem: UserError) -> None:
    pytest.fail(f"of these runs nothing is left out: {problem}")


def test_quantiles_are_those_of_the_tables() -> None:
    found = [student_quantile(0.95, freedom) for freedom in (1, 2, 4, 9, 30)]
    assert found == pytest.approx([12.7062, 4.3027, 2.7764, 2.2622, 2.0423], abs=5e-5)
    assert student_quantile(0.9, 4) == pytest.approx(2.1318, abs=5e-5)


def test_an_interval_needs_two_values() -> None:
    assert mean_interval([2.0]) == type(mean_interval([2.0]))(2.0, None, None, 1)
    three = mean_interval([1.0, 2.0, 3.0])
    assert (three.mean, three.n) == (2.0, 3)
    assert (three.low, three.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)


def test_seeds_make_one_row_and_settings_another(tmp_path: Path) -> None:
    runs = [_run(tmp_path / f"a{seed}", 0.1, seed, loss, outcomes="+-") for seed, loss in enumerate((1.0, 2.0, 3.0))]
    runs.append(_run(tmp_path / "b", 0.2, 0, 4.0, status="interrupted"))
    one, other = compare_runs(runs, warn=_told)
    assert one.settings == {"trainer.learning_rate": 0.1} and other.settings == {"trainer.learning_rate": 0.2}
    assert list(one.scores) == ["success", "val_loss", "loss"] and list(other.scores) == ["val_loss", "loss"]
    assert (one.scores["loss"].mean, one.scores["loss"].n) == (2.0, 3) and one.scores["success"].mean == 0.5
    assert (len(one.runs), one.unfinished, other.unfinished) == (3, 0, 1)
    head, first, second = table([one, other]).splitlines()
    assert head.split() == ["trainer.learning_rate", "runs", "success", "val_loss", "loss"]
    assert "2 [-0.4841, 4.484]" in first and "1 (1 unfinished)" in second and second.endswith("4")
    assert list(compare_runs(runs, ["step"], warn=_told)[0].scores) == ["step"]
    with pytest.raises(UserError, match=r"'los'(.|\n)*'loss'"):
        compare_runs(runs, ["los"], warn=_told)


def test_a_damaged_evaluation_is_told_and_the_one_before_it_counts(tmp_path: Path) -> None:
    runs = [_run(tmp_path / f"a{seed}", 0.1, seed, 1.0, outcomes="+-") for seed in (0, 1)]
    damaged = [_evaluate(runs[0].path, name, "++", created="2026-06-01T10:00:00") for name in ("eval/b", "eval/c")]
    damaged[0].write_text("{")
    damaged[1].write_text('{"schema_version": 1, "episodes": 3}')
    told: list[UserError] = []
    (row,) = compare_runs(runs, warn=told.append)
    assert (row.scores["success"].mean, row.scores["success"].n, row.scores["loss"].n) == (0.5, 2, 2)
    assert sorted(problem.where or "" for problem in told) == [str(file) for file in damaged]
    shown = hlrp("runs", "compare", tmp_path)
    assert shown.code == 0 and shown.err.count("warning: ") == 2 and shown.out.splitlines()[1].startswith("2 ")


def test_success_is_of_the_newest_checkpoint_on_the_same_episodes(tmp_path: Path) -> None:
    """Whatever was evaluated later: another task, other seeds, fewer episodes, an early checkpoint, the best one."""
    runs = [_run(tmp_path / f"a{seed}", 0.1, seed, 1.0, outcomes="+++-") for seed in (0, 1, 2)]
    later = {"created": "2026-06-01T10:00:00"}
    for number, other in enumerate([{"task": "reach-v3"}, {"seed": 0}, {"checkpoint": "checkpoints/000005"}]):
        _evaluate(runs[1].path, f"eval/b{number}", "----", **later | other)
    _evaluate(runs[1].path, "eval/c", "--", **later)
    _evaluate(runs[1].path, "eval/d", "----", checkpoint="best/000010", **later)
    score = compare_runs(runs, warn=_told)[0].scores["success"]
    assert (score.mean, score.n) == (0.75, 3)
    # Of two that all have, the newer one.
    for run, outcomes in zip(runs, ("----", "---+", "--++"), strict=True):
        _evaluate(run.path, "eval/e", outcomes, task="reach-v3", created="2026-06-02T10:00:00")
    assert compare_runs(runs, warn=_told)[0].scores["success"].mean == 0.25


def test_what_of_success_cannot_be_averaged_is_left_out_and_told(tmp_path: Path) -> None:
    runs = [_run(tmp_path / f"a{seed}", 0.1, seed, 1.0) for seed in (0, 1, 2)]
    for run, task in zip(runs[:2], ("push-v3", "reach-v3"), strict=True):
        _evaluate(run.path, "eval/a", "+-", task=task)
    told: list[UserError] = []
    assert "success" not in compare_runs(runs, warn=told.append)[0].scores
    assert "(here push-v3: 2 seeds 1000 to 1001 | there reach-v3: 2 seeds 1000 to 1001)" in told[0].what
    assert told[0].where == f"{runs[0].path} | {runs[1].path}"
    told.clear()
    _evaluate(runs[0].path, "eval/b", "--", task="reach-v3", created="2026-04-01T10:00:00")
    _evaluate(runs[2].path, "eval/b", "++", task="reach-v3", checkpoint="checkpoints/000005")
    newest = runs[2].path / "checkpoints" / "000010" / "pretrained_model"
    newest.mkdir(parents=True)
    for name in ("config", "policy_preprocessor", "policy_postprocessor", "train_config"):
        (newest / f"{name}.json").write_text("{}")
    save_file({"x": np.zeros(4, np.float32)}, newest / "model.safetensors")
    rows = compare_runs(runs, warn=told.append)
    assert [(problem.where, "newest one, of step 10" in problem.what) for problem in told] == [
        (str(runs[2].path), True)
    ]
    # A rate lies in [0, 1], and two of the three runs have it.
    assert rows[0].scores["success"] == MeanInterval(0.25, 0.0, 1.0, 2)
    assert "0.25 [0, 1] (n=2)" in table(rows).splitlines()[1]


def test_a_seed_that_comes_twice_is_told(tmp_path: Path) -> None:
    runs = [_run(tmp_path / name, 0.1, seed, 1.0) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    told: list[UserError] = []
    assert compare_runs(runs, warn=told.append)[0].scores["loss"].n == 3
    assert [problem.where for problem in told] == [f"{runs[0].path}, {runs[1].path}"] and "seed 0" in told[0].what
