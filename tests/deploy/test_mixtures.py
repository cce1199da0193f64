"""A policy of two robots, served and on one of them: it acts as the one that is asked for, with the cameras it has."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from arm import FPS
from make_dataset import make_dataset
from serving import running
from trials import Trials, actions

from hlrp.config import load_config
from hlrp.data.dataset_info import read_dataset
from hlrp.deploy.client import PolicyClient, replay_dataset
from hlrp.deploy.rollout.operator import Outcome
from hlrp.deploy.served import load_served
from hlrp.errors import UserError, WorkError
from trainers.lightning.trainer import LightningTrainer

FRONT, WRIST, STATE = "observation.images.front", "observation.images.wrist", "observation.state"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a robot of two motors, which has one of the arm's two cameras."""
    return make_dataset(tmp_path_factory.mktemp("data") / "push", size=32, length=12, action_dim=2, camera=FRONT)


@pytest.fixture(scope="module")
def mixed(waved: Path, pushed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    sources = [{"root": str(pushed), "action_space": "push"}, {"root": str(waved), "action_space": "arm"}]
    policy = {"policy_type": "hlrp_action_expert_direct", "backbone": "tiny", "chunk_size": 8, "n_action_steps": 4}
    config = {
        "trainer_type": "lightning",
        "trainer": {"steps": 1, "batch_size": 4, "device": "cpu"},
        "model": {**policy, "num_steps": 2, "image_size": [32, 32]},
        "data": {"sources": sources, "num_workers": 0},
    }
    (folder / "mixed.yaml").write_text(yaml.safe_dump(config))
    run: Any = load_config(folder / "mixed.yaml", [f"output_dir={folder / 'run'}"]).config
    return LightningTrainer().fit(run=run).path


@pytest.mark.parametrize(("space", "count", "fps"), [("push", 2, 10.0), ("arm", 3, float(FPS))])
def test_its_numbers_names_ranges_and_rate_are_those_of_the_robot_it_acts_as(
    space: str, count: int, fps: float, mixed: Path, waved: Path, pushed: Path
) -> None:
    data = {"push": pushed, "arm": waved}[space]
    served = load_served(mixed, device="cpu", action_space=space)
    said, stats = served.metadata, json.loads((data / "meta" / "stats.json").read_text())
    names = ["shoulder.pos", "elbow.pos", "wrist.pos"] if space == "arm" else None
    assert (said["action_space"], said["fps"]) == (space, fps)
    for name, feature in (("action", said["action"]), (STATE, said["observation"][STATE])):
        assert feature["shape"] == [count] and feature["names"] == names
        assert feature["low"] == pytest.approx(np.ravel(stats[name]["min"]), rel=1e-5)
        assert feature["high"] == pytest.approx(np.ravel(stats[name]["max"]), rel=1e-5)
    assert served.data is not None and served.data.root == read_dataset(None, data).root
    with pytest.raises(UserError, match="was not trained on these data"):
        load_served(mixed, device="cpu", action_space=space, dataset_root={"push": waved, "arm": pushed}[space])


def test_a_camera_that_the_recording_lacks_is_left_out(mixed: Path, pushed: Path) -> None:
    said: list[str] = []
    with running(load_served(mixed, device="cpu")) as server, PolicyClient(server.address) as client:
        assert {n: f.get("optional") for n, f in client.metadata["observation"].items()} == {
            FRONT: True,
            WRIST: True,
            STATE: None,
        }
        replay = replay_dataset(client, pushed, [0], said.append)
        with pytest.raises(WorkError, match=f"the observation lacks {FRONT}, {WRIST}"):
            client.infer({STATE: np.zeros(2, np.float32), "prompt": "push"})
    assert (replay.frames, replay.predicted[0].shape) == (12, (4, 2))
    assert said[0] == f"the dataset has no {WRIST}: the policy, which was trained on a mixture, sees without it"


@pytest.mark.parametrize("remote", [False, True])
def test_a_robot_is_sent_its_own_numbers_and_needs_one_camera(remote: bool, mixed: Path, trials: Trials) -> None:
    arm, outcome = {"names": ["front"]}, [Outcome.SUCCESS]
    if remote:
        with running(load_served(mixed, device="cpu", action_space="arm")) as server:
            result = trials.run(server.address, outcome, arm=arm, steps=6, episodes=1, task="wave")
    else:
        refusal = trials.refused(mixed, outcome, arm=arm)
        assert "state has another size" in refusal and "act as another robot than 'push': --action-space" in refusal
        result = trials.run(mixed, outcome, arm=arm, steps=6, episodes=1, action_space="arm")
    sent = np.array(actions(trials.journal))
    assert len(sent) >= 6 and sent.shape[1] == 3
    assert result.provenance["policy"]["action_space"] == "arm" and result.provenance["env"]["config"]["fps"] == FPS
    assert f"note: the robot has no {WRIST}: the policy, which was trained on a mixture, sees without" in trials.log
