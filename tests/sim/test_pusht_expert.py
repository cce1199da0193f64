"""PushT's expert: its model of the block, bad places to begin, recordings that LeRobot's environment repeats."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hlrp.evaluation.environment_plan import recorded_environment
from hlrp.sim.catalog import recording_of, task_description
from hlrp.sim.collect import CollectRequest, collect
from hlrp.sim.dataset import features, read_metadata
from hlrp.sim.experts import Demonstration, attempt
from hlrp.sim.pusht import TASK
from hlrp.sim.pusht.expert import CENTRE, Push, _ring, _routes, distance, error, plan, shove, targets
from hlrp.sim.pusht.gym_env import ExpertPushTEnv

GOAL = (256, 256, np.pi / 4)


@pytest.fixture(scope="module")
def env() -> Iterator[ExpertPushTEnv]:
    made = ExpertPushTEnv(TASK)
    yield made
    made.close()


@pytest.fixture(scope="module")
def solved(env: ExpertPushTEnv) -> Demonstration:
    demonstration = attempt(env, 7, noise=0.0)
    assert demonstration is not None
    return demonstration


def pose_of(env: ExpertPushTEnv) -> np.ndarray:
    """Centre of mass and angle of the block."""
    block = env.block
    return np.array([*block.local_to_world(block.center_of_gravity), block.angle])


def start(env: ExpertPushTEnv, disc: tuple[float, float], block: tuple[float, float, float]) -> None:
    x, y, angle = block
    # The environment turns the block about its centre of mass after it has put it where it is told to.
    shifted = (x - CENTRE * np.sin(angle), y + CENTRE * (np.cos(angle) - 1))
    env.reset(seed=0, options={"reset_to_state": [*disc, *shifted, angle]})


@pytest.mark.parametrize("place", [(160, 256), (352, 230), (256, 140), (330, 300), (300, 390)])
def test_the_model_of_the_block_is_the_simulators(env: ExpertPushTEnv, place: tuple[float, float]) -> None:
    """A disc that goes straight towards the block's middle, slides along it, and turns it."""
    start(env, place, GOAL)
    first = pose_of(env)
    modelled = first[:, None].copy()
    away = first[:2] + np.array([12, -9]) - place
    for step in range(1, 21):
        target = np.array(place) + away * min(1.0, step / 15)
        at, velocity = np.array(env.agent.position), np.array(env.agent.velocity)
        for _ in range(10):  # the simulator's controller
            velocity = velocity + 0.01 * (100 * (target - at) - 20 * velocity)
            at = at + 0.01 * velocity
            shove(modelled, at[:, None])
        env.step(target)
        np.testing.assert_allclose(at, env.agent.position, atol=1e-6)
    moved, wrong = pose_of(env) - first, pose_of(env) - modelled[:, 0]
    assert np.hypot(*moved[:2]) > 20 and abs(moved[2]) > 0.05
    assert np.hypot(*wrong[:2]) < 0.6 and abs(wrong[2]) < 0.01


def test_errors_and_distances_are_those_of_the_block(env: ExpertPushTEnv) -> None:
    start(env, (50, 50), GOAL)
    assert error(pose_of(env)) < 1e-3 and env._get_coverage() > 0.999
    start(env, (50, 50), (256, 259, np.pi / 4 + 2 * np.pi))
    assert error(pose_of(env)) == pytest.approx(3, abs=1e-3), "whole turns do not count"
    block = np.array([[0, -45], [14, 70], [60, -50], [18, 75], [40, 5]])  # inside twice, then beyond a side each
    np.testing.assert_allclose(distance(block), [0, 0, 5, 3, 20])


def test_the_expert_solves_it_in_long_smooth_pushes(env: ExpertPushTEnv, solved: Demonstration) -> None:
    assert 50 < len(solved.action) < 120
    assert solved.images["image"].shape[1:] == (96, 96, 3) and solved.images["image"][0].std() > 20
    assert np.linalg.norm(np.diff(solved.action, axis=0), axis=1).max() < 20
    again = attempt(env, 7, noise=0.0)
    assert again is not None
    np.testing.assert_array_equal(again.action, solved.action)


@pytest.mark.parametrize(
    ("disc", "block"),
    [
        ((250, 310), (250, 250, 0.0)),  # within the stem
        ((60, 60), (400, 400, 0.0)),  # the stem in the wall
        ((490, 300), (90, 90, -0.74)),  # the bar across a corner
    ],
)
def test_bad_places_to_begin(env: ExpertPushTEnv, disc: tuple[float, float], block: tuple[float, float, float]) -> None:
    start(env, disc, block)
    expert = env.expert()
    for _ in range(300):
        action = expert()
        assert (action > 0).all() and (action < 512).all()
        if env.step(action)[4]["is_success"]:
            return
    pytest.fail(f"not solved: error {error(pose_of(env)):.1f}")


def test_plans(env: ExpertPushTEnv) -> None:
    # One push away from the goal, straight against the bar: along the stem's direction, at its middle.
    along = np.array([-np.sin(np.pi / 4), np.cos(np.pi / 4)])
    start(env, (50, 50), (*(GOAL[:2] - 30 * along), GOAL[2]))
    none_barred = np.zeros(len(_ring().place), bool)
    found = plan(pose_of(env), np.array(env.agent.position), none_barred)
    assert isinstance(found, Push) and found.last and 30 < found.length < 60
    assert plan(pose_of(env), np.array(env.agent.position), ~none_barred) is None


@pytest.mark.parametrize("number", [3, 15, 30, 45, 70])
def test_the_block_is_not_touched_on_the_way_around(env: ExpertPushTEnv, number: int) -> None:
    start(env, (256, 180), GOAL)
    env.step(np.array([256, 180]))
    pose, disc = pose_of(env), np.array(env.agent.position)
    length, previous = _routes(pose, disc)
    assert np.isfinite(length[number])
    for target in targets(pose, disc, Push(number, 15.0, last=True), previous)[:-14]:  # the push is 8 + 3 + 3 of them
        env.step(target)
    np.testing.assert_array_equal(pose_of(env), pose)
    turned = np.array([[1, 1], [-1, 1]]) / np.sqrt(2)
    assert np.hypot(*(_ring().places[number] @ turned + pose[:2] - env.agent.position)) < 1, "where the push begins"


def test_a_recording_is_repeated_by_lerobots_environment(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.envs.configs import PushtEnv
    from lerobot.envs.factory import make_env
    from lerobot.envs.utils import env_to_policy_features

    result = collect(CollectRequest(tmp_path / "pusht", (TASK,), episodes=1, env="pusht", seed=13, workers=1))
    dataset, metadata = LeRobotDataset("local/pusht", root=result.output), read_metadata(result.output)
    assert metadata is not None and metadata["episodes"][0]["reset_seed"] == 13
    assert dataset.fps == 10 and len(dataset) == result.frames < 300
    assert dataset[0]["task"] == task_description(TASK) == "Push the T-shaped block onto the T-shaped target."
    described = recorded_environment(result.output)
    assert described == {"type": "pusht", "task": TASK, "observation_height": 96, "observation_width": 96}
    config = PushtEnv(observation_height=96, observation_width=96)
    wanted, recorded = env_to_policy_features(config), features(recording_of("pusht"), 96)
    assert wanted.keys() == recorded.keys() <= dataset.features.keys()
    assert wanted["observation.image"].shape == (3, 96, 96) and recorded["observation.image"]["shape"] == (96, 96, 3)
    vec = make_env(config, n_envs=1)["pusht"][0]
    observation, _ = vec.reset(seed=[13])
    image = dataset[0]["observation.image"].numpy().transpose(1, 2, 0) * 255
    assert np.abs(image - observation["pixels"][0]).mean() < 4
    for row in range(len(dataset)):
        item = dataset.hf_dataset[row]
        np.testing.assert_array_equal(item["observation.state"], observation["agent_pos"][0].astype(np.float32))
        observation, _, done, *_ = vec.step(np.asarray(item["action"])[None])
        assert bool(done[0]) == (row == len(dataset) - 1)
    vec.close()


@pytest.mark.slow
def test_recording_and_replay_by_command(tmp_path: Path) -> None:
    def run(*arguments: object) -> dict:
        command = [sys.executable, "-m", "hlrp_cli.main", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    data = tmp_path / "data"
    made = run("collect", "--env", "pusht", "--tasks", TASK, "--episodes", 5, "--workers", 2, "--output", data)
    assert made["episodes"] == {TASK: 5} and made["failed_attempts"] == {TASK: 0}
    replayed = run("eval", "--replay", data, "--episodes", 5)["replay"]
    assert replayed["reproduced"] and [e["success"] for e in replayed["episodes"]] == [True] * 5
