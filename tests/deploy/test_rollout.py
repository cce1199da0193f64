"""Trials on a simulated arm through LeRobot's control loop: both modes, servers, exports, names."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm import FPS, LATENT, TASK, record, save_policy
from exporting import small_export, weights
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout import RTCInferenceConfig
from serving import running
from trials import Trials, actions, first_chunk, journal_of

from hlrp.deploy.export.request import ExportRequest
from hlrp.deploy.export.run import export_policy
from hlrp.deploy.rollout.operator import Outcome
from hlrp.deploy.served import load_served
from hlrp.errors import UserError

STEPS = 200


def test_200_steps_in_step_with_the_policy(waver: Path, trials: Trials) -> None:
    """The arm is sent what the policy says of the data's joints, in their order, and let go at the end."""
    result = trials.run(waver, [Outcome.SUCCESS], steps=STEPS, episodes=1)
    sent, lines = actions(trials.journal), journal_of(trials.journal)
    assert (lines[0], lines[-1]) == ("connect", "disconnect") and len(sent) >= STEPS
    assert np.allclose(sent[:10], first_chunk(waver), atol=2e-6)
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


def test_a_policy_behind_a_server_acts_the_same(waver: Path, trials: Trials) -> None:
    with running(load_served(waver, device="cpu")) as server:
        result = trials.run(server.address, [Outcome.SUCCESS], steps=25, episodes=1, task="")
        with pytest.raises(UserError, match="needs the policy in this process"):
            trials.run(server.address, [], inference=RTCInferenceConfig())
    assert np.allclose(actions(trials.journal)[:10], first_chunk(waver), atol=2e-6)
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
def test_an_export_acts_on_the_arm_as_its_policy(waver: Path, trials: Trials) -> None:
    folder = trials.journal.parent / "export"
    export_policy(ExportRequest(waver, "onnx", folder, repeats=1), lambda _: None)
    result = trials.run(folder, [Outcome.SUCCESS], steps=25, episodes=1)
    sent = actions(trials.journal)
    assert np.allclose(sent[:10], first_chunk(waver), atol=1e-4) and np.ptp(sent, axis=0).min() > 0.01
    assert result.provenance["policy"]["weights_sha256"]


def test_the_instruction_of_a_server_is_that_of_the_trials(latent: Path, trials: Trials) -> None:
    """So it is that of an export which knows a single one."""
    with running(load_served(latent, device="cpu", task="press")) as server:
        result = trials.run(server.address, [Outcome.SUCCESS], episodes=1)
    assert result.episodes[0].task == "press"


def test_cameras_are_renamed_as_asked(waver: Path, trials: Trials) -> None:
    front, wrist = "observation.images.front", "observation.images.wrist"
    trials.run(waver, [Outcome.SUCCESS], episodes=1, rename_map={front: wrist, wrist: front})
    assert np.allclose(actions(trials.journal)[0], first_chunk(waver, swapped=True)[0], atol=2e-6)
    assert not np.allclose(first_chunk(waver), first_chunk(waver, swapped=True), atol=1e-4)


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
