"""Trials on a simulated arm through LeRobot's control loop: both modes, series, comparisons, and what goes wrong."""

import contextlib
import itertools
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arm import FPS, LATENT, TASK, record, save_policy
from exporting import small_export, weights
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout import RTCInferenceConfig, SyncInferenceConfig
from lerobot_robot_simarm import SimArm, SimArmConfig
from safetensors.torch import load_file, save_file
from serving import running

from hlrp.deploy.export.request import ExportRequest
from hlrp.deploy.export.run import export_policy
from hlrp.deploy.observations import Request
from hlrp.deploy.rollout.operator import Operator, Outcome, Stop
from hlrp.deploy.rollout.request import RolloutRequest, Source
from hlrp.deploy.rollout.run import rollout
from hlrp.deploy.rollout.series import order
from hlrp.deploy.served import load_served
from hlrp.deploy.session import Session
from hlrp.errors import Interrupted, UserError, WorkError
from hlrp.evaluation.request import EvalResult
from hlrp.evaluation.statistics import paired_difference

STEPS = 200


@pytest.fixture(scope="module")
def waved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "wave")


@pytest.fixture(scope="module")
def act(waved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("runs") / "act", waved)


@pytest.fixture(scope="module")
def latent(waved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("runs") / "latent", waved, LATENT)


class Scripted(Operator):
    """Presses the key of the next outcome when the arm has been sent so many actions; then ends the series."""

    def __init__(self, stop: Stop, say: Any, outcomes: list[Outcome | None], journal: Path, steps: int) -> None:
        super().__init__(stop, say)
        self.outcomes, self._journal, self._steps = outcomes, journal, steps

    def ready(self, what: str) -> bool:
        self._say(what)
        return bool(self.outcomes)

    def outcome(self) -> Outcome | None:
        return Outcome.FAILURE

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Outcome]]:
        said: list[Outcome] = []
        before, done = len(actions(self._journal)), threading.Event()

        def press() -> None:
            while len(actions(self._journal)) < before + self._steps and not done.is_set():
                time.sleep(0.005)
            outcome = self.outcomes.pop(0)
            if done.is_set():
                return
            if outcome is None:
                signal.raise_signal(signal.SIGINT)
            else:
                said.append(outcome)
                self._stop.trial_over.set()

        thread = threading.Thread(target=press)
        thread.start()
        try:
            yield said
        finally:
            done.set()
            thread.join(30)


def journal_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def actions(path: Path) -> list[list[float]]:
    """What the arm was sent."""
    return [list(map(float, line.split()[1:])) for line in journal_of(path) if line.startswith("action ")]


class Trials:
    """Runs series on the arm, in this process."""

    def __init__(self, folder: Path) -> None:
        self.journal, self._folder = folder / "journal", folder
        self.log: list[str] = []

    def run(
        self,
        policy: Path | str,
        outcomes: list[Outcome | None],
        *,
        steps: int = 3,
        arm: dict[str, Any] | None = None,
        against: Path | None = None,
        inference: Any = None,
        **fields: Any,
    ) -> EvalResult:
        source = Source(path=policy) if isinstance(policy, Path) else Source(address=policy)
        config = SimArmConfig(calibration_dir=self._folder, journal=self.journal, fps=FPS, **(arm or {}))
        request = RolloutRequest(
            source,
            config,
            inference or SyncInferenceConfig(),
            against=None if against is None else Source(path=against),
            **{"return_seconds": 0.0, "output": self._folder / "results", "device": "cpu", **fields},
        )
        stop = Stop()
        operator = Scripted(stop, self.log.append, outcomes, self.journal, steps)
        return rollout(request, operator, stop, self.log.append)

    def refused(self, *args: Any, error: type[Exception] = UserError, **fields: Any) -> str:
        """The message of a refusal; the arm has not moved and is nobody's."""
        with pytest.raises(error) as refusal:
            self.run(*args, **fields)
        lines = journal_of(self.journal)
        assert lines in ([], ["connect", "disconnect"]), lines
        assert not (self._folder / "results" / "results.json").exists() or lines
        return str(refusal.value)


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)


def first_chunk(run: Path, *, swapped: bool = False) -> np.ndarray:
    """What the policy does from the arm's first pose on, as `select_action` in process says it."""
    arm = SimArm(SimArmConfig(calibration_dir=run, fps=FPS))
    arm.connect()
    seen = arm.get_observation()
    arm.disconnect()
    names = ("front", "wrist")
    shown = zip(names, reversed(names) if swapped else names, strict=True)
    arrays = {f"observation.images.{name}": seen[given].transpose(2, 0, 1).copy() for name, given in shown}
    arrays["observation.state"] = np.array([seen[f"{j}.pos"] for j in arm.config.joints], np.float32)
    return Session(load_served(run, device="cpu").loaded, alone=True).act(Request(arrays, TASK))


def test_200_steps_in_step_with_the_policy(act: Path, trials: Trials) -> None:
    """The arm is sent what the policy says of the data's joints, in their order, and let go at the end."""
    result = trials.run(act, [Outcome.SUCCESS], steps=STEPS, episodes=1)
    sent, lines = actions(trials.journal), journal_of(trials.journal)
    assert (lines[0], lines[-1]) == ("connect", "disconnect") and len(sent) >= STEPS
    assert np.allclose(sent[:10], first_chunk(act), atol=2e-6)
    assert np.ptp(sent, axis=0).min() > 0.01, "it goes on with what it sees"
    (episode,) = result.episodes
    assert (episode.success, episode.length, episode.task) == (True, len(sent), TASK)
    saved = json.loads((result.folder / "results.json").read_text())
    assert saved["env"] == {
        "type": "simarm",
        "tasks": [TASK],
        "fields": {},
        "source": "--robot.type",
        "config": {"id": None, "fps": FPS, "seconds": 60.0},
    }
    assert saved["policy"]["weights_sha256"]
    assert saved["overall"]["success_interval"] == [pytest.approx(0.2065, abs=1e-3), 1]


def test_200_steps_of_the_latent_expert_in_step(latent: Path, trials: Trials) -> None:
    trials.run(latent, [Outcome.FAILURE], steps=STEPS, episodes=1)
    sent = actions(trials.journal)
    assert len(sent) >= STEPS and np.isfinite(sent).all() and np.ptp(sent, axis=0).min() > 0.01


def test_200_steps_with_real_time_chunking(latent: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are made while the arm moves, each guided by what is left of the one before."""
    from lerobot_policy_felix_bundle.policies.common.policy import HLRPPolicy

    guided, predict = [], HLRPPolicy.predict_action_chunk

    def watch(self: Any, batch: Any, **given: Any) -> Any:
        left = given.get("prev_chunk_left_over")
        guided.append((threading.current_thread().name, given.get("inference_delay"), left is not None))
        return predict(self, batch, **given)

    monkeypatch.setattr(HLRPPolicy, "predict_action_chunk", watch)
    inference = RTCInferenceConfig(rtc=RTCConfig(execution_horizon=10), queue_threshold=80)
    result = trials.run(latent, [Outcome.SUCCESS], steps=STEPS, episodes=1, inference=inference)
    sent = actions(trials.journal)
    assert len(sent) >= STEPS and np.isfinite(sent).all() and journal_of(trials.journal)[-1] == "disconnect"
    chunks = [row for row in guided if row[0] == "RTCInference"]
    assert len(chunks) >= 3 and not chunks[0][2]
    assert all(left and delay > 0 for _, delay, left in chunks[2:])
    assert result.provenance["inference"] == "rtc"


def test_chunks_that_are_over_before_they_are_there_are_told(waved: Path, trials: Trials) -> None:
    """LeRobot drops the steps of a chunk that went by while it was made: of a chunk of one, all."""
    run = save_policy(trials.journal.parent / "short", waved, LATENT, chunk_size=1, n_action_steps=1)
    inference = RTCInferenceConfig(rtc=RTCConfig(execution_horizon=1))
    trials.run(run, [Outcome.FAILURE], steps=1, seconds=1.0, episodes=1, inference=inference)
    assert actions(trials.journal) == []
    assert any("no action was sent" in line and "chunk of 1 steps" in line for line in trials.log)


def test_a_policy_behind_a_server_acts_the_same(act: Path, trials: Trials) -> None:
    with running(load_served(act, device="cpu")) as server:
        result = trials.run(server.address, [Outcome.SUCCESS], steps=25, episodes=1, task="")
        with pytest.raises(UserError, match="needs the policy in this process"):
            trials.run(server.address, [], inference=RTCInferenceConfig())
    assert np.allclose(actions(trials.journal)[:10], first_chunk(act), atol=2e-6)
    assert result.provenance["policy"]["path"] == server.address
    assert result.provenance["policy"]["weights_sha256"]


def test_an_export_acts_on_the_arm_by_its_only_instruction(latent: Path, trials: Trials) -> None:
    """Joints, rate, ranges and instruction are those of its manifest: the data are not asked for."""
    folder = small_export(latent, trials.journal.parent / "export", tasks=["press"])
    result = trials.run(folder, [Outcome.SUCCESS], steps=12, episodes=1)
    chunk = np.array([[0.5, -0.8, 1.0]], np.float32) @ weights(3, 30)
    assert np.allclose(actions(trials.journal)[:10], chunk.reshape(10, 3), atol=1e-5)
    policy = result.provenance["policy"]
    assert result.episodes[0].task == "press" and policy["weights_sha256"] and policy["export"] == "onnx"
    # Its weights are those of the checkpoint, which does not act as it does to the bit.
    with pytest.raises(UserError, match=r"of another series .*export: 'onnx' there, None here"):
        trials.run(latent, [], episodes=1, task="press")
    other = small_export(latent, trials.journal.parent / "other", tasks=["press", "pull"])
    with pytest.raises(UserError, match="the policy reads an instruction, and there are 2: 'press', 'pull'"):
        trials.run(other, [], episodes=1, output=trials.journal.parent / "second")


@pytest.mark.slow
def test_an_export_acts_on_the_arm_as_its_policy(act: Path, trials: Trials) -> None:
    folder = trials.journal.parent / "export"
    export_policy(ExportRequest(act, "onnx", folder, repeats=1), lambda _: None)
    result = trials.run(folder, [Outcome.SUCCESS], steps=25, episodes=1)
    sent = actions(trials.journal)
    assert np.allclose(sent[:10], first_chunk(act), atol=1e-4) and np.ptp(sent, axis=0).min() > 0.01
    assert result.provenance["policy"]["weights_sha256"]


def test_the_instruction_of_a_server_is_that_of_the_trials(latent: Path, trials: Trials) -> None:
    """So it is that of an export which knows a single one."""
    with running(load_served(latent, device="cpu", task="press")) as server:
        result = trials.run(server.address, [Outcome.SUCCESS], episodes=1)
    assert result.episodes[0].task == "press"


def test_cameras_are_renamed_as_asked(act: Path, trials: Trials) -> None:
    front, wrist = "observation.images.front", "observation.images.wrist"
    trials.run(act, [Outcome.SUCCESS], episodes=1, rename_map={front: wrist, wrist: front})
    assert np.allclose(actions(trials.journal)[0], first_chunk(act, swapped=True)[0], atol=2e-6)
    assert not np.allclose(first_chunk(act), first_chunk(act, swapped=True), atol=1e-4)


def test_where_the_data_have_gone_their_folder_gives_the_names(waved: Path, trials: Trials) -> None:
    """Of a policy here, and of one behind a server that does not have them either."""
    moved = trials.journal.parent / "moved"
    shutil.copytree(waved, moved)
    run = save_policy(trials.journal.parent / "run", moved)
    now = moved.rename(moved.with_name("now"))
    assert "nothing says which joints the policy's state is of" in trials.refused(run, [Outcome.SUCCESS])
    assert "--dataset-root DIR" in trials.refused(run, [Outcome.SUCCESS])
    with running(load_served(run, device="cpu")) as server:
        assert "nothing says which joints" in trials.refused(server.address, [Outcome.SUCCESS])
        trials.run(server.address, [Outcome.SUCCESS], episodes=1, dataset_root=now)
    other = record(trials.journal.parent / "other", episodes=1, length=8)
    with pytest.raises(UserError, match="was not trained on these data"):
        trials.run(run, [Outcome.SUCCESS], dataset_root=other)
    result = trials.run(run, [Outcome.SUCCESS], episodes=1, dataset_root=now, output=trials.journal.parent / "second")
    assert result.episodes[0].task == TASK


def test_a_robot_that_cannot_be_connected_is_one_message(act: Path, trials: Trials) -> None:
    text = trials.refused(act, [Outcome.SUCCESS], arm={"pose": [0.0]})
    assert "the robot cannot be connected" in text and "zip()" in text
    assert any("could not be disconnected" in line for line in trials.log)


def test_the_arm_goes_back_to_where_it_was(act: Path, trials: Trials) -> None:
    trials.run(act, [Outcome.SUCCESS], steps=20, episodes=1, return_seconds=0.3)
    assert actions(trials.journal)[-1] == pytest.approx([0.5, -0.8, 1.0], abs=1e-6)


def test_ctrl_c_stops_the_arm_on_its_way_back(act: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    send, sent = SimArm.send_action, itertools.count(1)

    def interrupted(self: SimArm, action: dict[str, Any]) -> Any:
        done = send(self, action)
        if next(sent) == 30:
            signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(SimArm, "send_action", interrupted)
    with pytest.raises(Interrupted, match="1 trials are kept"):
        trials.run(act, [Outcome.SUCCESS], steps=20, episodes=2, return_seconds=4.0)
    assert len(actions(trials.journal)) == 30
    assert journal_of(trials.journal)[-1] == "disconnect"


def test_a_series_goes_on_where_it_was_left(act: Path, trials: Trials) -> None:
    """A discarded trial comes again, Ctrl-C keeps what has ended, and the next time the rest is run."""
    outcomes = [Outcome.SUCCESS, Outcome.DISCARD, Outcome.FAILURE, None]
    with pytest.raises(Interrupted) as stopped:
        trials.run(act, outcomes, episodes=4)
    assert stopped.value.exit_code == 130 and "2 trials are kept" in str(stopped.value)
    assert journal_of(trials.journal)[-1] == "disconnect"
    said = [line for line in trials.log if line.startswith("trial ")]
    assert said == ["trial 1 of 4", "trial 2 of 4", "trial 2 of 4", "trial 3 of 4"]
    result = trials.run(act, [Outcome.SUCCESS, Outcome.SUCCESS], episodes=4)
    assert any("2 of 4 trials are done" in line for line in trials.log)
    assert [(e.index, e.seed) for e in result.episodes] == [(scene, scene) for scene in range(4)]
    assert [e.success for e in result.episodes] == [True, False, True, True]
    assert result.provenance["series"]["discarded"] == 1
    before = len(journal_of(trials.journal))
    again = trials.run(act, [], episodes=4)
    assert again.to_json() == result.to_json() and len(journal_of(trials.journal)) == before, "the arm is left alone"
    for other, differs in ({"seconds": 5.0}, "config"), ({"task": "x"}, "tasks"):
        with pytest.raises(UserError, match=f"of another series .*{differs}"):
            trials.run(act, [], episodes=4, **other)


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


@pytest.fixture(scope="module")
def still(waved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that always wants the mean pose of the data."""
    run = save_policy(tmp_path_factory.mktemp("runs") / "still", waved)
    weights = next(run.rglob("model.safetensors"))
    state = load_file(weights)
    save_file(state | {k: v * 0 for k, v in state.items() if "action_head" in k}, weights)
    return run


def test_two_policies_in_a_blind_order(act: Path, still: Path, waved: Path, trials: Trials) -> None:
    """Each scene is met by both, in an order that nothing said tells, and the end compares them by scene."""
    with pytest.raises(Interrupted):
        trials.run(act, [*[Outcome.SUCCESS] * 3, None], against=still, episodes=4, seed=5)
    begun = len(trials.log)
    result = trials.run(act, [Outcome.FAILURE] * 5, against=still, episodes=4)
    wanted = [(trial.scene, trial.side) for trial in itertools.islice(order(5, True), 8)]
    mean = json.loads((waved / "meta" / "stats.json").read_text())["action"]["mean"]
    acted = [
        side for side, _ in itertools.groupby(np.allclose(row, mean, atol=1e-5) for row in actions(trials.journal))
    ]
    # The fourth trial was begun twice.
    sides = [bool(side) for _, side in [*wanted[:4], *wanted[3:]]]
    assert acted == [side for side, _ in itertools.groupby(sides)]
    assert not any(name in line for line in trials.log[begun + 2 :] for name in (str(act), str(still), "compared"))
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
        trials.run(act, [], episodes=4)


def test_what_breaks_in_a_trial_leaves_the_rest(act: Path, trials: Trials) -> None:
    with pytest.raises(WorkError, match=r"no answer on the bus\n  1 of 3 trials are kept"):
        trials.run(act, [Outcome.SUCCESS, Outcome.SUCCESS], episodes=3, arm={"breaks_at": 20}, steps=12)
    assert journal_of(trials.journal)[-1] == "disconnect"
    saved = json.loads((trials.journal.parent / "results" / "results.json").read_text())
    assert [e["success"] for e in saved["episodes"]] == [True]


def test_actions_that_are_not_finite_are_never_sent(act: Path, waved: Path, trials: Trials) -> None:
    run = save_policy(trials.journal.parent / "broken", waved)
    weights = next(run.rglob("model.safetensors"))
    state = load_file(weights)
    state["model.action_head.bias"][1] = torch.nan
    save_file(state, weights)
    assert "no action of 3 finite numbers" in trials.refused(run, [Outcome.SUCCESS], error=WorkError)
