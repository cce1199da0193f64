"""ALOHA's environment type and experts: determinism, the parent's physics, honest episode ends, recording."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hlrp.errors import UserError
from hlrp.sim.aloha import SCENES
from hlrp.sim.aloha.config import AlohaLightEnv
from hlrp.sim.aloha.gym_env import LightAlohaEnv
from hlrp.sim.catalog import envs_catalog, expand_tasks, require_installed, task_description
from hlrp.sim.collect import CollectRequest, collect
from hlrp.sim.dataset import read_metadata
from hlrp.sim.experts import Demonstration, attempt

SIZE = 32
CUBE, PEG = SCENES
START = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.1] * 2, np.float32)
"""Targets near the first pose."""


@pytest.fixture(scope="module")
def env() -> Iterator[LightAlohaEnv]:
    made = LightAlohaEnv(CUBE, image_size=SIZE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def solved(env: LightAlohaEnv) -> tuple[Demonstration, dict]:
    """An episode of the expert, and what the environment says at its end."""
    env.draw_frames(False)  # 300 frames that no test looks at
    demonstration = attempt(env, 3, noise=0.0)
    env.draw_frames(True)
    assert demonstration is not None
    return demonstration, {"state": state_of(env), "frame": env.render()}


def state_of(env: LightAlohaEnv) -> np.ndarray:
    data = env._env.physics.data
    return np.concatenate([data.qpos, data.qvel, data.ctrl, data.qacc_warmstart])


def test_the_expert_solves_it_and_the_episode_ends_there(
    env: LightAlohaEnv, solved: tuple[Demonstration, dict]
) -> None:
    demonstration, end = solved
    assert demonstration.task == CUBE and 250 < len(demonstration.action) < 400
    assert demonstration.action.shape[1:] == demonstration.state.shape[1:] == (14,)
    assert (demonstration.action >= env.action_space.low).all() and (
        demonstration.action <= env.action_space.high
    ).all()
    assert env._elapsed == len(demonstration.action)
    cube = end["state"][16:19]
    assert cube[2] > 0.2 and abs(cube[0]) < 0.05, "held up in the middle"
    # The frame of the end, though frames were switched off.
    assert not demonstration.images["top"][-1].any() and end["frame"].std() > 20


def test_the_first_state_depends_on_the_seed_alone(env: LightAlohaEnv, solved: tuple[Demonstration, dict]) -> None:
    """After an early success, for one copy and for four, and whatever came before."""
    del solved  # `env` has just succeeded before its time limit
    after_success = env.reset(seed=7)[0]
    first = state_of(env)
    config = AlohaLightEnv(image_size=SIZE, episode_length=2)
    for count in (1, 4):
        vec = config.create_envs(count)[CUBE][0]
        for shift in (0, 1):  # the second time past the end of an episode
            seeds = [7 + (index + shift) % count for index in range(count)]
            observation, _ = vec.reset(seed=seeds)
            copy = seeds.index(7)
            np.testing.assert_array_equal(observation["agent_pos"][copy], after_success["agent_pos"])
            np.testing.assert_array_equal(observation["pixels"]["top"][copy], after_success["pixels"]["top"])
            np.testing.assert_array_equal(state_of(vec.envs[copy].unwrapped), first)
            for _ in range(3):
                vec.step(np.tile(START, (count, 1)))
        vec.close()
    assert not np.array_equal(env.reset(seed=8)[0]["pixels"]["top"], after_success["pixels"]["top"])


def test_physics_are_those_of_gym_aloha() -> None:
    from gym_aloha.env import AlohaEnv  # imported first, it would choose MuJoCo's backend

    light, theirs = LightAlohaEnv(PEG, image_size=SIZE), AlohaEnv("insertion", "pixels_agent_pos")
    # Its three pictures cost half a second and are not compared.
    theirs._env.task.get_observation = lambda physics: {
        "qpos": theirs._env.task.get_qpos(physics),
        "images": {"top": np.zeros((1, 1, 3), np.uint8)},
    }
    mine, original = light.reset(seed=5)[0], theirs.reset(seed=5)[0]
    for action in START + np.random.default_rng(1).uniform(-0.3, 0.3, (10, 14)).astype(np.float32):
        np.testing.assert_array_equal(mine["agent_pos"], original["agent_pos"])
        mine, reward, *_ = light.step(action)
        original, their_reward, *_ = theirs.step(action)
        assert reward == their_reward
    np.testing.assert_array_equal(state_of(light), state_of(theirs))
    light.close()


def test_time_limit_truncates() -> None:
    env = LightAlohaEnv(CUBE, image_size=SIZE, episode_length=2)
    env.reset(seed=0)
    ends = [env.step(START)[2:] for _ in range(2)]
    assert [end[:2] for end in ends] == [(False, False), (False, True)]
    assert "final_info" not in ends[0][2] and ends[1][2]["final_info"] == {"task": CUBE, "is_success": False}
    env.close()


PLUGIN = """
import sys
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env
config = EnvConfig.get_choice_class("aloha_light")(task="insertion", image_size=32)
assert "mujoco" not in sys.modules and "gym_aloha" not in sys.modules
env = make_env(config, n_envs=1)["AlohaInsertion-v0"][0]
observation = env.reset(seed=[9])[0]
objects = env.envs[0].unwrapped._env.physics.data.qpos[16:].tolist()
print(env.call("task_description")[0], observation["pixels"]["top"].shape, objects)
"""


def test_stock_lerobot_knows_the_type_and_a_new_process_the_seed() -> None:
    done = subprocess.run([sys.executable, "-c", PLUGIN], capture_output=True, text=True, timeout=300, check=False)
    env = LightAlohaEnv(PEG, image_size=SIZE)
    env.reset(seed=9)
    objects = env._env.physics.data.qpos[16:].tolist()
    assert done.stdout.strip() == f"Insert the peg into the socket. (1, 32, 32, 3) {objects}", done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    env.close()


def test_configuration() -> None:
    from lerobot.envs.configs import AlohaEnv as Theirs
    from lerobot.envs.utils import env_to_policy_features

    config = AlohaLightEnv(task="transfer_cube", image_size=64)
    assert (config.type, config.fps, config.task) == ("aloha_light", 50, CUBE)
    mine, original = env_to_policy_features(config), env_to_policy_features(Theirs())
    assert mine.keys() == original.keys() == {"action", "observation.state", "observation.images.top"}
    assert mine["observation.images.top"].shape == (3, 64, 64) and mine["action"].shape == (14,)
    assert "observation.images.angle" in env_to_policy_features(AlohaLightEnv(camera_name="angle"))
    wrong = (
        {"task": "transfer_cub"},
        {"camera_name": "topp"},
        {"image_size": 4},
        {"episode_length": 0},
        {"camera_shake": -1},
        {"obs_type": "pixels"},
        {"observation_height": 240},
    )
    for fields in wrong:
        with pytest.raises(UserError):
            AlohaLightEnv(**fields)


def test_names_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.envs.configs import AlohaEnv as Theirs

    assert expand_tasks("aloha", "insertion,AlohaTransferCube-v0") == [PEG, CUBE]
    assert Theirs().task in envs_catalog()["aloha"].tasks
    assert task_description(CUBE).startswith("Pick up the cube")
    monkeypatch.setattr("hlrp.sim.catalog.find_spec", lambda name: None)
    with pytest.raises(UserError, match="gym_aloha") as error:
        require_installed("aloha_light")
    assert error.value.fix == "pip install -e '.[aloha]'"


def test_a_recording_replays_to_success(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    request = CollectRequest(tmp_path / "aloha", ("insertion",), episodes=1, env="aloha", image_size=SIZE, workers=1)
    result = collect(request)
    dataset = LeRobotDataset("local/aloha", root=result.output)
    metadata = read_metadata(result.output)
    assert metadata is not None and (dataset.fps, dataset.meta.robot_type) == (50, "aloha")
    assert (metadata["env_type"], metadata["noise"], metadata["tasks"]) == ("aloha_light", 0.0, [PEG])
    assert dataset.features["action"]["names"][6:8] == ["left_gripper", "right_waist"]
    assert dataset[0]["task"] == "Insert the peg into the socket."
    env = LightAlohaEnv(PEG, image_size=SIZE)
    observation, _ = env.reset(seed=metadata["episodes"][0]["reset_seed"])
    np.testing.assert_array_equal(dataset[0]["observation.state"], observation["agent_pos"].astype(np.float32))
    image = dataset[0]["observation.images.top"].numpy().transpose(1, 2, 0) * 255
    assert np.abs(image - observation["pixels"]["top"]).mean() < 8
    env.draw_frames(False)
    successes = [env.step(np.asarray(action))[4]["is_success"] for action in dataset.hf_dataset["action"]]
    assert successes == [False] * (result.frames - 1) + [True]
    env.close()
