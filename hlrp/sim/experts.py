"""Scripted experts: one attempt at a task, recorded."""

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from hlrp.sim.interface import ExpertEnv


@dataclass(frozen=True)
class Demonstration:
    """A successful episode of T steps; row t holds what was seen before action t was executed.

    Attributes:
        task: Task name.
        reset_seed: Seed of the reset that gives the first state.
        images: By the picture's name, [T, S, S, 3] uint8.
        state: [T, D] float32, the robot's.
        action: [T, A] float32 in the environment's action space, exactly what the simulator was given.
    """

    task: str
    reset_seed: int
    images: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray


def attempt(env: ExpertEnv, reset_seed: int, noise: float) -> Demonstration | None:
    """Let the task's expert act from one first state. A function of the arguments alone.

    Args:
        env: The environment; its time limit bounds the attempt.
        reset_seed: Seed of the first state and of the noise, at least 0.
        noise: Standard deviation of the Gaussian added to the expert's action, in the action's own units.

    Returns:
        The episode up to the step that succeeded, or None if the time limit came first.
    """
    # The task's name is part of the seed: tasks recorded with equal reset seeds must not share their noise.
    random = np.random.default_rng([reset_seed, crc32(env.task.encode())])
    observation, _ = env.reset(seed=reset_seed)
    expert, low, high = env.expert(), env.action_space.low, env.action_space.high
    pictures, states, actions = [], [], []
    while True:
        # Experts ask for far more than the range; noise is added to what the robot would do, so that it has an effect.
        wanted = np.clip(expert(), low, high)
        action = np.clip(wanted + noise * random.standard_normal(wanted.shape), low, high).astype(np.float32)
        pictures.append(observation["pixels"])
        states.append(observation["agent_pos"].astype(np.float32))
        actions.append(action)
        observation, _, terminated, truncated, info = env.step(action)
        if info["is_success"]:
            images = {name: np.stack([seen[name] for seen in pictures]) for name in pictures[0]}
            return Demonstration(env.task, reset_seed, images, np.stack(states), np.stack(actions))
        if terminated or truncated:
            return None
