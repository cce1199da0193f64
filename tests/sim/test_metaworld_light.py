"""The environment type: determinism, honest episode ends, LeRobot's rollout, contexts."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from hlrp.errors import UserError
from hlrp.sim.metaworld_gym import LightMetaworldEnv
from hlrp.sim.metaworld_light import MetaworldLightEnv

SIZE = 48
TASK = "drawer-close-v3"


def make(task: str = TASK, **kwargs) -> LightMetaworldEnv:
    return LightMetaworldEnv(task, image_size=SIZE, **kwargs)


def frame_of(observation: dict) -> np.ndarray:
    """The picture of the only camera."""
    return observation["pixels"]["corner2"]


def simulator_state(env: LightMetaworldEnv) -> dict[str, np.ndarray]:
    data = env._env.data
    names = ("qpos", "qvel", "mocap_pos", "qacc_warmstart", "site_xpos")
    return {name: np.array(getattr(data, name)) for name in names} | {"raw": env.raw_observation}


def assert_same(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, dict):
            assert_same(value, right[key])
            continue
        np.testing.assert_array_equal(value, right[key], err_msg=key)


def solve(env: LightMetaworldEnv, seed: int) -> tuple[int, dict, dict]:
    """Steps, last observation and info of a solved episode."""
    env.reset(seed=seed)
    for step in range(1, 200):
        action = np.clip(env.expert_policy.get_action(env.raw_observation), -1, 1).astype(np.float32)
        observation, _, terminated, _, info = env.step(action)
        if terminated:
            return step, observation, info
    raise AssertionError("the expert failed")


@pytest.fixture(scope="module")
def solved() -> LightMetaworldEnv:
    env = make()
    steps, observation, info = solve(env, seed=11)
    env.solved = (steps, observation, info)
    yield env
    env.close()


@pytest.mark.parametrize("task", [TASK, "push-v3"])
def test_first_state_and_trajectory_depend_on_the_seed_alone(task: str) -> None:
    fresh, used = make(task), make(task)
    solve(used, seed=3)
    used.reset()
    used.step(np.ones(4, np.float32))
    first, _ = fresh.reset(seed=7)
    again, _ = used.reset(seed=7)
    assert_same(first, again)
    assert_same(simulator_state(fresh), simulator_state(used))
    for action in np.random.default_rng(0).uniform(-1, 1, (10, 4)).astype(np.float32):
        left, right = fresh.step(action), used.step(action)
        assert_same(left[0], right[0])
        assert left[1:4] == right[1:4]
    other, _ = used.reset(seed=8)
    assert not np.array_equal(frame_of(other), frame_of(first))
    fresh.close()
    used.close()


def test_physics_are_those_of_lerobots_environment() -> None:
    from lerobot.envs.metaworld import MetaworldEnv

    light, theirs = make(), MetaworldEnv(TASK, obs_type="pixels_agent_pos")
    mine, _ = light.reset(seed=5)
    original, _ = theirs.reset(seed=5)
    np.testing.assert_array_equal(mine["agent_pos"], original["agent_pos"])
    for action in np.random.default_rng(1).uniform(-1, 1, (3, 4)).astype(np.float32):
        left, right = light.step(action), theirs.step(action)
        np.testing.assert_array_equal(left[0]["agent_pos"], right[0]["agent_pos"])
        assert left[1] == right[1]
    np.testing.assert_array_equal(light._env.data.qpos, theirs._env.data.qpos)
    # The same scene, upright: LeRobot's frame, shrunk, looks like ours.
    small = torch.nn.functional.interpolate(
        torch.from_numpy(original["pixels"]).permute(2, 0, 1)[None].float(), size=SIZE, mode="area"
    )
    ours = torch.from_numpy(frame_of(mine)).permute(2, 0, 1)[None].float()
    turned = (ours - small.flip(2, 3)).abs().mean()
    assert (ours - small).abs().mean() < 0.5 * turned
    light.close()
    theirs.close()


def test_success_ends_the_episode_with_its_own_last_frame(solved: LightMetaworldEnv) -> None:
    _, observation, info = solved.solved
    assert info["is_success"] and info["final_info"]["is_success"]
    np.testing.assert_array_equal(solved.render(), frame_of(observation))
    # Not reset behind our back: the simulator still is where the observation says.
    np.testing.assert_array_equal(solved._env.get_endeff_pos(), observation["agent_pos"][:3])


def test_time_limit_truncates() -> None:
    env = make(episode_length=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(4, np.float32))[2:] for _ in range(3)]
    assert [(terminated, truncated) for terminated, truncated, _ in ends] == [
        (False, False),
        (False, False),
        (False, True),
    ]
    assert ends[-1][2]["final_info"]["is_success"] is False
    assert "final_info" not in ends[0][2]
    env.close()


def test_a_limit_beyond_meta_worlds_own_is_reached() -> None:
    env = make("reach-v3", episode_length=505)
    env.reset(seed=0)
    env._format_raw_obs = lambda raw: {}  # five hundred frames would cost seconds and say nothing
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(505)]
    assert ends == [(False, False)] * 504 + [(False, True)]
    env.close()


@pytest.mark.parametrize("use_async", [False, True])
def test_vector_copies_equal_single_ones(use_async: bool) -> None:
    config = MetaworldLightEnv(task=TASK, image_size=SIZE, episode_length=4)
    vec = config.create_envs(2, use_async_envs=use_async)[TASK][0]
    single = make()
    for seeds in ([20, 21], [21, 30]):
        observation, _ = vec.reset(seed=seeds)
        for index, seed in enumerate(seeds):
            expected, _ = single.reset(seed=seed)
            np.testing.assert_array_equal(observation["agent_pos"][index], expected["agent_pos"])
            np.testing.assert_array_equal(frame_of(observation)[index], frame_of(expected))
        # Past the end of the episode: the next reset has to undo that, and the end has to stay in view.
        for _ in range(6):
            observation, _, _, _, _ = vec.step(np.full((2, 4), 0.5, np.float32))
        for _ in range(4):
            expected = single.step(np.full(4, 0.5, np.float32))[0]
        np.testing.assert_array_equal(frame_of(observation)[1], frame_of(expected))
        np.testing.assert_array_equal(vec.call("render")[1], frame_of(expected))
    assert vec.call("_max_episode_steps")[0] == 4
    vec.close()
    single.close()


@pytest.mark.parametrize("count", [1, 4])
def test_the_first_state_is_the_same_in_every_batch_after_an_early_success(count: int) -> None:
    vec = MetaworldLightEnv(task=TASK, image_size=SIZE).create_envs(count)[TASK][0]
    single = make()
    expected, _ = single.reset(seed=7)
    solve(vec.envs[0].unwrapped, seed=3)
    for shift in (1, 0):  # first in another copy than the one that succeeded, where there is one
        seeds = [7 + (index + shift) % count for index in range(count)]
        copy = seeds.index(7)
        observation, _ = vec.reset(seed=seeds)
        np.testing.assert_array_equal(observation["agent_pos"][copy], expected["agent_pos"])
        np.testing.assert_array_equal(frame_of(observation)[copy], frame_of(expected))
        assert_same(simulator_state(vec.envs[copy].unwrapped), simulator_state(single))
    vec.close()
    single.close()


class ExpertPolicy(torch.nn.Module):
    """LeRobot's rollout wants a module; this one reads the simulators' full state."""

    def __init__(self, vec: SyncVectorEnv) -> None:
        super().__init__()
        self.vec = vec

    def reset(self) -> None:
        pass

    def select_action(self, _batch: dict) -> torch.Tensor:
        envs = [env.unwrapped for env in self.vec.envs]
        actions = [np.clip(env.expert_policy.get_action(env.raw_observation), -1, 1) for env in envs]
        return torch.from_numpy(np.stack(actions).astype(np.float32))


def lerobot_rollout(seeds: list[int], episode_length: int) -> dict:
    from lerobot.envs.factory import make_env
    from lerobot.scripts.lerobot_eval import rollout

    task = "button-press-v3"  # its episodes differ in length
    config = MetaworldLightEnv(task=task, image_size=SIZE, episode_length=episode_length)
    vec = make_env(config, n_envs=len(seeds))[task][0]
    keep = lambda batch: batch  # noqa: E731
    frames = []
    result = rollout(vec, ExpertPolicy(vec), keep, keep, keep, keep, seeds=seeds, return_observations=True,
                     render_callback=lambda env: frames.append(np.stack(env.call("render"))))  # fmt: skip
    vec.close()
    return {**result, "frames": np.stack(frames, axis=1)}


def test_lerobots_rollout_sees_success_and_true_last_frames() -> None:
    batch = lerobot_rollout([11, 40, 41], episode_length=200)
    assert batch["success"].any(dim=1).all()
    lengths = batch["done"].int().argmax(dim=1) + 1
    assert len(set(lengths.tolist())) > 1, "seeds with different lengths are needed for this test"
    shortest = int(lengths.argmin())
    end = int(lengths[shortest])
    alone = lerobot_rollout([[11, 40, 41][shortest]], episode_length=200)
    assert alone["action"].shape[1] == end
    np.testing.assert_array_equal(alone["frames"][0], batch["frames"][shortest][: end + 1])
    np.testing.assert_array_equal(alone["frames"][0, -1], batch["frames"][shortest, -1])
    assert not lerobot_rollout([11], episode_length=5)["success"].any()


def test_configuration() -> None:
    from lerobot.envs.configs import EnvConfig
    from lerobot.envs.utils import env_to_policy_features

    config = EnvConfig.get_choice_class("metaworld_light")(task="button-press-v3, easy", image_size=64)
    features = env_to_policy_features(config)
    assert features["observation.images.corner2"].shape == (3, 64, 64)
    other = env_to_policy_features(EnvConfig.get_choice_class("metaworld_light")(camera_name="topview"))
    assert sorted(other) == ["action", "observation.images.topview", "observation.state"]
    assert features["observation.state"].shape == features["action"].shape == (4,)
    assert config.type == "metaworld_light" and config.fps == 80
    for wrong in (
        {"task": "buton-press-v3"},
        {"camera_name": "corner9"},
        {"image_size": 4},
        {"episode_length": 0},
        {"camera_shake": -1},
    ):
        with pytest.raises(UserError):
            MetaworldLightEnv(**wrong)
    envs = MetaworldLightEnv(task=f"{TASK},hard").create_envs(1)
    assert list(envs) == [TASK, "hard"] and len(envs["hard"]) == 6


def test_shadows_and_size_change_the_frame(solved: LightMetaworldEnv) -> None:
    plain, shadowed = make(), make(shadows=True)
    left, _ = plain.reset(seed=1)
    right, _ = shadowed.reset(seed=1)
    assert frame_of(left).shape == (SIZE, SIZE, 3) and frame_of(left).dtype == np.uint8
    assert frame_of(left).std() > 20
    assert not np.array_equal(frame_of(left), frame_of(right))
    plain.close()
    shadowed.close()


def test_a_shaken_camera_moves_the_picture_and_nothing_else() -> None:
    still, shaken, again = make(), make(camera_shake=0.1), make(camera_shake=0.1)
    seen: dict[str, list[np.ndarray]] = {"still": [], "shaken": [], "again": []}
    again.reset(seed=4)  # phases come from the seed of the episode, not from what went before
    again.step(np.zeros(4, np.float32))
    for env in (still, shaken, again):
        env.reset(seed=9)
    home = still._env.model.camera("corner2").pos
    away = []
    for _ in range(40):
        for name, env in (("still", still), ("shaken", shaken), ("again", again)):
            env.draw_frames(name != "again" or len(seen["again"]) == 39)
            seen[name].append(frame_of(env.step(np.full(4, 0.2, np.float32))[0]))
        away.append(np.abs(shaken._env.model.camera("corner2").pos - home).max())
    left, right = simulator_state(still), simulator_state(shaken)
    assert_same(left, right)
    assert 0.02 < max(away) <= 0.1
    # A tenth of a second apart most of the picture is the same only where the camera stands still.
    changed = {name: (np.abs(f[16].astype(int) - f[8]) > 3).mean() for name, f in seen.items() if name != "again"}
    assert changed["still"] < 0.25 and changed["shaken"] > 2 * changed["still"], changed
    np.testing.assert_array_equal(seen["again"][-1], seen["shaken"][-1])
    for env in (still, shaken, again):
        env.close()


PLUGIN = """
import sys
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
from lerobot.envs.configs import EnvConfig
config = EnvConfig.get_choice_class("metaworld_light")(task="reach-v3", image_size=32)
assert "mujoco" not in sys.modules and "metaworld" not in sys.modules
env = config.create_envs(2)["reach-v3"][0]
observation = env.reset(seed=[1, 2])[0]
frames, physics = observation["pixels"]["corner2"], env.envs[1].unwrapped._env.data
print(frames.shape, int(frames[1].astype(int).sum()), physics.qpos.tolist(), physics.site_xpos.tolist())
"""


def test_plugin_registers_a_new_process_knows_the_seed_and_an_unclosed_context_leaves_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", PLUGIN], capture_output=True, text=True, timeout=300, check=False)
    env = LightMetaworldEnv("reach-v3", image_size=32)
    picture, physics = frame_of(env.reset(seed=2)[0]), env._env.data
    said = f"(2, 32, 32, 3) {int(picture.astype(int).sum())} {physics.qpos.tolist()} {physics.site_xpos.tolist()}"
    assert done.stdout.strip() == said, done.stderr
    env.close()
    for trace in ("Traceback", "TypeError", "Exception ignored"):
        assert trace not in done.stderr, done.stderr
