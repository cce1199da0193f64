"""Comparison of two evaluations: paired by task and seed, of the same episodes only."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from tiny_policies import save_tiny_act

from hlrp.errors import Interrupted, UserError
from hlrp.evaluation.compare import compare, evaluate_against, read_results
from hlrp.evaluation.request import Episode, EvalRequest, EvalResult, Listener, TaskResult
from hlrp.evaluation.run import evaluate
from hlrp.sim.rendering import configure_gl

configure_gl()


def result_of(successes: list[bool], task: str = "t", seed: int = 0) -> EvalResult:
    episodes = [Episode(task, i, seed + i, s, 0.0, 1) for i, s in enumerate(successes)]
    return EvalResult(Path("nowhere"), {"env": {"type": "pusht"}}, [TaskResult(task, episodes)])


def test_comparison_is_paired_and_needs_the_same_episodes(pusht, tmp_path):
    worse, better = result_of([False] * 6 + [True] * 4), result_of([True] * 10)
    found = compare(worse, better.to_json(), Path("other"))
    assert (found["difference"], found["only_other"], found["verdict"]) == (-0.6, 6, "worse")
    assert found["interval"][1] < 0 and found["tasks"]["t"]["pairs"] == 10
    assert compare(better, better.to_json(), Path("other"))["verdict"] == "no difference shown"
    with pytest.raises(UserError) as refused:
        compare(result_of([True] * 10, seed=5), better.to_json(), Path("other"))
    assert "t: 10 seeds 5 to 14" in str(refused.value) and "t: 10 seeds 0 to 9" in str(refused.value)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(better.to_json()))
    assert read_results(tmp_path) == read_results(file) == json.loads(file.read_text())
    with pytest.raises(UserError, match="not evaluated on the same episodes"):
        evaluate_against(EvalRequest(pusht, "pusht", output=tmp_path / "out"), file)
    with pytest.raises(UserError, match="not evaluated in the same environment"):
        evaluate_against(EvalRequest(pusht, "metaworld_light", output=tmp_path / "out"), file)
    file.write_text("{}")
    with pytest.raises(UserError, match="does not hold results"):
        read_results(file)


def test_sides_whose_episodes_differ_in_any_field_are_not_compared(pusht, tmp_path):
    request = EvalRequest(pusht, "pusht", episodes=1, videos=0, env_fields={"episode_length": 2}, output=tmp_path / "a")
    earlier = evaluate(request).to_json()
    file = tmp_path / "results.json"
    changes = {"episode_length": 20, "fps": 30, "obs_type": "state"}
    for field, theirs in changes.items():
        mine = earlier["env"]["config"][field]
        file.write_text(
            json.dumps(earlier | {"env": {"type": "pusht", "config": earlier["env"]["config"] | {field: theirs}}})
        )
        with pytest.raises(UserError) as refused:
            evaluate_against(dataclasses.replace(request, output=tmp_path / "b"), file)
        assert f"env.{field}: {mine!r} here, {theirs!r} there" in str(refused.value)
    other = earlier["env"] | {"config": earlier["env"]["config"] | {"observation_width": 96, "episode_length": 2}}
    file.write_text(json.dumps(earlier | {"env": other}))
    with pytest.raises(UserError, match=r"same episodes.*1 seeds 7 to 7.*1 seeds 1000 to 1000"):
        evaluate_against(dataclasses.replace(request, seed=7, output=tmp_path / "b"), file)
    assert not (tmp_path / "b").exists(), "refused before an episode is run"
    # How large pictures are is each policy's own affair.
    assert evaluate_against(dataclasses.replace(request, output=tmp_path / "b"), file).comparison["pairs"] == 1


def test_episodes_are_paired_by_task_and_seed_whatever_their_order():
    """Both sides fail and succeed; by position, or with tasks swapped, other counts come out."""
    left = [True, True, False, True, False], [False, False, True, False, False]
    right = [False, True, True, False, False], [True, False, False, True, True]
    mine, theirs = (
        EvalResult(Path("nowhere"), {"env": {"type": "pusht"}}, [*result_of(a, "a").tasks, *result_of(b, "b").tasks])
        for a, b in (left, right)
    )
    other = theirs.to_json()
    other["episodes"] = other["episodes"][::-1]
    found = compare(mine, other, Path("other"))
    # Of a: seeds 0 and 3 here alone, 2 there alone; of b: 2 here alone, 0, 3 and 4 there alone.
    assert (found["pairs"], found["only_this"], found["only_other"], found["difference"]) == (10, 3, 4, -0.1)
    counts = {t: (d["pairs"], d["only_this"], d["only_other"]) for t, d in found["tasks"].items()}
    assert counts == {"a": (5, 2, 1), "b": (5, 1, 3)}
    assert found["tasks"]["a"]["difference"] == pytest.approx(0.2)
    assert found["tasks"]["b"]["difference"] == pytest.approx(-0.4)


def test_two_checkpoints_are_compared_on_the_same_episodes(pusht, tmp_path):
    save_tiny_act(tmp_path / "checkpoints" / "000004" / "pretrained_model", "pusht", seed=1)
    (tmp_path / "checkpoints" / "last").symlink_to("000004")
    other = tmp_path / "checkpoints" / "last" / "pretrained_model"
    request = EvalRequest(pusht, "pusht", episodes=2, videos=0, env_fields={"episode_length": 3}, output=tmp_path / "o")
    result = evaluate_against(request, other)
    assert result.comparison["pairs"] == 2 and result.comparison["other_policy"]["path"] == str(other)
    second = json.loads((tmp_path / "o" / "compared" / "results.json").read_text())
    assert second["policy"]["step"] == 4
    assert [e["seed"] for e in second["episodes"]] == [e.seed for e in result.episodes]
    assert json.loads((tmp_path / "o" / "results.json").read_text())["comparison"] == result.comparison


@pytest.mark.parametrize("broken", [KeyboardInterrupt, OSError])
def test_where_the_second_side_breaks_off_it_is_said_where_the_first_one_is(broken, pusht, tmp_path):
    class Breaks(Listener):
        begun, said = 0, ""

        def started(self, task, episodes):
            self.begun += 1
            if self.begun == 2:
                raise broken

        def note(self, text):
            self.said = text

    request = EvalRequest(pusht, "pusht", episodes=1, videos=0, env_fields={"episode_length": 2}, output=tmp_path / "o")
    other, listener = save_tiny_act(tmp_path / "other", "pusht", seed=1), Breaks()
    with pytest.raises((Interrupted, OSError)) as stopped:
        evaluate_against(request, other, listener=listener)
    assert getattr(stopped.value, "exit_code", None) == (130 if broken is KeyboardInterrupt else None)
    said = str(stopped.value) if broken is KeyboardInterrupt else listener.said
    results = tmp_path / "o" / "results.json"
    assert f"the results of the first side are in {results}; to compare" in said
    assert json.loads(results.read_text())["overall"]["episodes"] == 1
    # The command that it names.
    *_, policy, flag, first = shlex.split(said)
    second = dataclasses.replace(request, policy_path=Path(policy), output=tmp_path / "second")
    assert (policy, flag) == (str(other), "--compare")
    assert evaluate_against(second, Path(first)).comparison["pairs"] == 1


def test_series_of_trials_are_compared_under_the_same_settings_of_the_robot():
    def series(inference: str = "sync", **settings: object) -> EvalResult:
        result = result_of([True] * 3)
        kept = {"robot.use_degrees": True, "inference.rtc": None, **settings}
        result.provenance |= {"series": {"settings": kept}, "inference": inference}
        return result

    def compared(here: EvalResult, there: EvalResult) -> dict:
        return compare(here, there.to_json(), Path("other"))

    with pytest.raises(UserError, match=r"of the robot \(robot\.use_degrees: True here, False there\)"):
        compared(series(), series(**{"robot.use_degrees": False}))
    assert "inference" not in compared(series(), series(**{"rename_map.a": "b"}))
    assert compared(series("rtc"), series())["inference"] == {"inference": ["rtc", "sync"]}
    horizon = {"inference.rtc": 7}
    assert compared(series(**horizon), series())["inference"] == {"inference.rtc": [7, None]}
    older = series()
    del older.provenance["series"]["settings"]
    assert "inference" not in compared(older, series(**horizon))
