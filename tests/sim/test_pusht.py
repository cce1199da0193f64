"""LeRobot's PushT as an evaluation builds it: the first state of an episode."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.envs.utils import NEW_ROLLOUT_OPTION

from hlrp.evaluation.environment import build_environments, environment_config

SEED = 7


def make(count: int) -> Any:
    fields = {"observation_height": 96, "observation_width": 96, "episode_length": 2}
    ((_, vec),) = build_environments(environment_config("pusht", None, fields), count, use_async=False)
    return vec


def begin(vec: Any, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and states of the first observation."""
    observation, _ = vec.reset(seed=seeds, options={NEW_ROLLOUT_OPTION: True})
    return observation["pixels"].copy(), observation["agent_pos"].copy()


def block_of(vec: Any, copy: int = 0) -> list[float]:
    block = vec.envs[copy].unwrapped.block
    return [*block.position, block.angle, *block.velocity, block.angular_velocity]


def test_the_first_state_depends_on_the_seed_alone() -> None:
    """For one copy and for four, past the end of an episode, and after an early success."""
    alone = make(1)
    pictures, states = begin(alone, [SEED])
    block = block_of(alone)
    for count in (1, 4):
        vec = make(count)
        for shift in (0, 1):  # the second time past the end of an episode
            seeds = [SEED + (index + shift) % count for index in range(count)]
            copy = seeds.index(SEED)
            seen = begin(vec, seeds)
            np.testing.assert_array_equal(seen[0][copy], pictures[0])
            np.testing.assert_array_equal(seen[1][copy], states[0])
            assert block_of(vec, copy) == block
            for _ in range(3):
                vec.step(np.full((count, 2), 300.0, np.float32))
        vec.close()
    begin(alone, [SEED + 2])
    env = alone.envs[0].unwrapped
    env.block.angle = env.goal_pose[2]  # turns it about its centre of gravity, so first
    env.block.position = tuple(env.goal_pose[:2])
    _, _, terminated, *_ = alone.step(np.array([tuple(env.agent.position)], np.float32))
    assert terminated.all(), "an early success is what this test needs"
    again = begin(alone, [SEED])
    np.testing.assert_array_equal(again[0], pictures)
    np.testing.assert_array_equal(again[1], states)
    assert block_of(alone) == block
    assert not np.array_equal(begin(alone, [SEED + 1])[0], pictures)
    alone.close()


APART = """
from test_pusht import SEED, begin, block_of, make
vec = make(1)
pictures, states = begin(vec, [SEED])
print(int(pictures.astype(int).sum()), states.tolist(), block_of(vec))
"""


def test_a_new_process_begins_alike() -> None:
    run, here = [sys.executable, "-c", APART], Path(__file__).parent
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False, cwd=here)
    vec = make(1)
    pictures, states = begin(vec, [SEED])
    assert done.stdout.strip() == f"{int(pictures.astype(int).sum())} {states.tolist()} {block_of(vec)}", done.stderr
    vec.close()
