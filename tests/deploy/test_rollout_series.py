"""Series of trials: going on, comparing in a blind order, the way back, and what goes wrong."""

import dataclasses
import itertools
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arm import save_policy
from lerobot.cameras.opencv import OpenCVCameraConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.robots.so_follower import SO101FollowerConfig
from lerobot.rollout import RTCInferenceConfig
from lerobot_robot_simarm import SimArm
from safetensors.torch import load_file, save_file
from trials import Trials, actions, journal_of

from hlrp.deploy.rollout.operator import Outcome
from hlrp.deploy.rollout.robot import settings_of
from hlrp.deploy.rollout.series import order
from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.evaluation.statistics import paired_difference


def test_a_robot_that_cannot_be_connected_is_one_message(waver: Path, trials: Trials) -> None:
    text = trials.refused(waver, [Outcome.SUCCESS], arm={"pose": [0.0]})
    assert "the robot cannot be connected" in text and "zip()" in text
    assert any("could not be disconnected" in line for line in trials.log)


def test_the_arm_goes_back_to_where_it_was(waver: Path, trials: Trials) -> None:
    trials.run(waver, [Outcome.SUCCESS], steps=20, episodes=1, return_seconds=0.3)
    assert actions(trials.journal)[-1] == pytest.approx([0.5, -0.8, 1.0], abs=1e-6)


def test_ctrl_c_stops_the_arm_on_its_way_back(waver: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    send, sent = SimArm.send_action, itertools.count(1)

    def interrupted(self: SimArm, action: dict[str, Any]) -> Any:
        done = send(self, action)
        if next(sent) == 30:
            signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(SimArm, "send_action", interrupted)
    with pytest.raises(Interrupted, match="1 trials are kept"):
        trials.run(waver, [Outcome.SUCCESS], steps=20, episodes=2, return_seconds=4.0)
    assert len(actions(trials.journal)) == 30
    assert journal_of(trials.journal)[-1] == "disconnect"


def test_a_series_goes_on_where_it_was_left(waver: Path, trials: Trials) -> None:
    """A discarded trial comes again, Ctrl-C keeps what has ended, and the next time the rest is run."""
    outcomes = [Outcome.SUCCESS, Outcome.DISCARD, Outcome.FAILURE, None]
    with pytest.raises(Interrupted) as stopped:
        trials.run(waver, outcomes, episodes=4)
    assert stopped.value.exit_code == 130 and "2 trials are kept" in str(stopped.value)
    assert journal_of(trials.journal)[-1] == "disconnect"
    said = [line for line in trials.log if line.startswith("trial ")]
    assert said == ["trial 1 of 4", "trial 2 of 4", "trial 2 of 4", "trial 3 of 4"]
    result = trials.run(waver, [Outcome.SUCCESS, Outcome.SUCCESS], episodes=4)
    assert any("2 of 4 trials are done" in line for line in trials.log)
    assert [(e.index, e.seed) for e in result.episodes] == [(scene, scene) for scene in range(4)]
    assert [e.success for e in result.episodes] == [True, False, True, True]
    assert result.provenance["series"]["discarded"] == 1
    before = len(journal_of(trials.journal))
    again = trials.run(waver, [], episodes=4)
    assert again.to_json() == result.to_json() and len(journal_of(trials.journal)) == before, "the arm is left alone"
    for other, differs in ({"seconds": 5.0}, "config"), ({"task": "x"}, "tasks"):
        with pytest.raises(UserError, match=f"of another series .*{differs}"):
            trials.run(waver, [], episodes=4, **other)


def test_without_a_folder_an_unfinished_series_of_the_run_goes_on(
    waved: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")  # nothing can be written there, and nothing has to be
    other = save_policy(trials.journal.parent / "other", waved, seed=3)
    first = trials.run(other, [Outcome.SUCCESS], episodes=2, output=None)
    assert first.folder.parent == other / "rollout"
    assert trials.run(other, [Outcome.FAILURE], episodes=2, output=None).folder == first.folder
    assert trials.run(other, [Outcome.FAILURE], episodes=1, output=None).folder != first.folder
    assert trials.run(other, [Outcome.FAILURE], episodes=1).folder == trials.journal.parent / "results"


def test_trials_under_other_settings_of_the_robot_are_of_another_series(waver: Path, trials: Trials) -> None:
    begun = trials.run(waver, [Outcome.SUCCESS] * 2, episodes=3)
    settings = begun.provenance["series"]["settings"]
    assert settings["robot.degrees"] is False and settings["robot.pose"] == [0.5, -0.8, 1.0]
    assert not any("journal" in name or "calibration" in name for name in settings), "where files are decides nothing"
    for episodes in (2, 3):
        with pytest.raises(UserError, match=r"of another series \(robot\.degrees: False there, True here\)"):
            trials.run(waver, [], episodes=episodes, arm={"degrees": True})
    horizon = RTCInferenceConfig(rtc=RTCConfig(execution_horizon=7))
    assert settings_of(horizon, "inference")["inference.rtc.execution_horizon"] == 7
    front, wrist = "observation.images.front", "observation.images.wrist"
    swapped = rf"of another series \(rename_map\.{front}: None there, '{wrist}' here; rename_map\.{wrist}: "
    with pytest.raises(UserError, match=swapped):
        trials.run(waver, [], episodes=3, rename_map={front: wrist, wrist: front})
    # As an older version left it: nobody knows under which settings its trials were.
    results = begun.folder / "results.json"
    saved = json.loads(results.read_text())
    del saved["series"]["settings"]
    results.write_text(json.dumps(saved))
    ended = trials.run(waver, [Outcome.FAILURE], episodes=3, arm={"pose": [0.4, -0.7, 0.9]})
    assert [e.success for e in ended.episodes] == [True, True, False]


def test_a_series_knows_its_renaming_unless_it_is_the_checkpoints_own(waved: Path, trials: Trials) -> None:
    run = save_policy(trials.journal.parent / "run", waved, seed=3)
    file = next(run.glob("checkpoints/*/pretrained_model/policy_preprocessor.json"))
    saved = json.loads(file.read_text())
    [step] = [s for s in saved["steps"] if s["registry_name"] == "rename_observations_processor"]
    front, wrist = "observation.images.front", "observation.images.wrist"
    step["config"]["rename_map"] = own = {front: wrist, wrist: front}
    file.write_text(json.dumps(saved))
    trials.run(run, [Outcome.SUCCESS], episodes=2)
    result = trials.run(run, [Outcome.FAILURE], episodes=2, rename_map=own)
    assert [e.success for e in result.episodes] == [True, False]
    other = {"output": trials.journal.parent / "other", "rename_map": {front: front, wrist: wrist}}
    kept = trials.run(run, [Outcome.SUCCESS], episodes=2, **other).provenance["series"]["settings"]
    assert {n: v for n, v in kept.items() if "rename" in n} == {f"rename_map.{n}": n for n in (front, wrist)}
    with pytest.raises(UserError, match=rf"of another series \(rename_map\.{front}: '{front}' there, None here"):
        trials.run(run, [], episodes=2, output=other["output"])


def test_a_series_with_nothing_left_to_run_says_so_and_is_not_taken_up_unasked(waved: Path, trials: Trials) -> None:
    other = save_policy(trials.journal.parent / "other", waved, seed=3)
    begun = trials.run(other, [Outcome.SUCCESS] * 2, episodes=3, output=None)
    before = len(journal_of(trials.journal))
    assert trials.run(other, [], episodes=2, output=begun.folder).episodes == begun.episodes
    assert trials.log[-1] == f"goes on with {begun.folder}: 2 of 2 trials are done; nothing was run"
    assert len(journal_of(trials.journal)) == before
    fresh = trials.run(other, [Outcome.FAILURE], episodes=2, output=None)
    assert fresh.folder != begun.folder and [e.success for e in fresh.episodes] == [False]
    assert trials.run(other, [Outcome.FAILURE], episodes=2, output=None).folder == fresh.folder
    assert trials.run(other, [Outcome.FAILURE], episodes=3, output=None).folder == begun.folder


def test_by_which_port_a_robot_is_reached_is_no_setting_of_a_trial() -> None:
    camera = OpenCVCameraConfig(index_or_path=Path("/dev/video0"), fps=30, width=64, height=48)
    found = settings_of(SO101FollowerConfig(port="/dev/ttyACM0", id="left", cameras={"top": camera}), "robot")
    moved = dataclasses.replace(camera, index_or_path=3)
    assert found == settings_of(SO101FollowerConfig(port="/dev/ttyACM7", cameras={"top": moved}), "robot")
    assert (found["robot.cameras.top.width"], found["robot.cameras.top.color_mode"]) == (64, "RGB")
    assert (found["robot.use_degrees"], found["robot.position_p_coefficient"]) == (True, 16)
    assert not any(word in name for name in found for word in ("port", "path", ".id", "calibration", "retries"))


@pytest.fixture(scope="module")
def still(waved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that always wants the mean pose of the data."""
    run = save_policy(tmp_path_factory.mktemp("runs") / "still", waved)
    weights = next(run.rglob("model.safetensors"))
    state = load_file(weights)
    save_file(state | {k: v * 0 for k, v in state.items() if "action_head" in k}, weights)
    return run


def test_two_policies_in_a_blind_order(waver: Path, still: Path, waved: Path, trials: Trials) -> None:
    """Each scene is met by both, in an order that nothing said tells, and the end compares them by scene."""
    with pytest.raises(Interrupted):
        trials.run(waver, [*[Outcome.SUCCESS] * 3, None], against=still, episodes=4, seed=5)
    begun = len(trials.log)
    result = trials.run(waver, [Outcome.FAILURE] * 5, against=still, episodes=4)
    wanted = [(trial.scene, trial.side) for trial in itertools.islice(order(5, True), 8)]
    mean = json.loads((waved / "meta" / "stats.json").read_text())["action"]["mean"]
    acted = [
        side for side, _ in itertools.groupby(np.allclose(row, mean, atol=1e-5) for row in actions(trials.journal))
    ]
    # The fourth trial was begun twice.
    sides = [bool(side) for _, side in [*wanted[:4], *wanted[3:]]]
    assert acted == [side for side, _ in itertools.groupby(sides)]
    assert not any(name in line for line in trials.log[begun + 2 :] for name in (str(waver), str(still), "compared"))
    rows = [json.loads((f / "results.json").read_text()) for f in (result.folder, result.folder / "compared")]
    succeeded = [[e["index"] for e in row["episodes"] if e["success"]] for row in rows]
    assert succeeded == [[scene for scene, side in wanted[:3] if side == number] for number in (0, 1)]
    assert [row["policy"]["path"].split("/")[-4] for row in rows] == ["act", "still"]
    expected = paired_difference(*([scene in found for scene in range(4)] for found in succeeded))
    comparison = result.comparison
    assert comparison is not None
    assert (comparison["pairs"], comparison["difference"]) == (4, expected.difference)
    assert comparison["interval"] == [expected.low, expected.high]
    with pytest.raises(UserError, match="a comparison"):
        trials.run(waver, [], episodes=4)


def test_what_breaks_in_a_trial_leaves_the_rest(waver: Path, trials: Trials) -> None:
    with pytest.raises(WorkError, match=r"no answer on the bus\n  1 of 3 trials are kept"):
        trials.run(waver, [Outcome.SUCCESS, Outcome.SUCCESS], episodes=3, arm={"breaks_at": 20}, steps=12)
    assert journal_of(trials.journal)[-1] == "disconnect"
    saved = json.loads((trials.journal.parent / "results" / "results.json").read_text())
    assert [e["success"] for e in saved["episodes"]] == [True]


def test_actions_that_are_not_finite_are_never_sent(waver: Path, waved: Path, trials: Trials) -> None:
    run = save_policy(trials.journal.parent / "broken", waved)
    weights = next(run.rglob("model.safetensors"))
    state = load_file(weights)
    state["model.action_head.bias"][1] = torch.nan
    save_file(state, weights)
    assert "no action of 3 finite numbers" in trials.refused(run, [Outcome.SUCCESS], error=WorkError)
