"""Actions that a policy gives relative to the state are added to the state that its chunk was predicted from."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.utils import FreezeAfterEpisodeEnd
from lerobot.policies.act import ACTConfig, ACTPolicy
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    PolicyProcessorPipeline,
    RelativeActionsProcessorStep,
)
from lerobot.processor.converters import (
    batch_to_transition,
    policy_action_to_transition,
    transition_to_batch,
    transition_to_policy_action,
)

from hlrp.deploy.observations import Request
from hlrp.deploy.session import Session
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.evaluation.relative_actions import keep_references
from hlrp.evaluation.request import Listener
from hlrp.evaluation.rollout import Film, run_task

CHUNK, LENGTH = 5, 12
STATE, OTHER = "observation.state", "observation.environment_state"


class Joint(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """One joint, which is where it is told to be after every step."""

    metadata: ClassVar[dict[str, Any]] = {"render_fps": 10}
    _max_episode_steps = LENGTH
    task = task_description = "go"
    _box = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    observation_space = gym.spaces.Dict({"agent_pos": _box, "environment_state": _box})
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.told: list[float] = []
        self.place = float(seed or 0)
        return self._seen(), {}

    def step(self, action: np.ndarray) -> Any:
        self.place = float(action[0])
        self.told.append(self.place)
        return self._seen(), 0.0, False, len(self.told) >= LENGTH, {"is_success": False}

    def _seen(self) -> dict[str, np.ndarray]:
        return {"agent_pos": np.array([self.place]), "environment_state": np.array([len(self.told) / LENGTH])}


def load() -> LoadedPolicy:
    torch.manual_seed(0)
    sizes = {"dim_model": 8, "n_heads": 1, "dim_feedforward": 8, "n_encoder_layers": 1, "use_vae": False}
    config = ACTConfig(
        input_features={
            STATE: PolicyFeature(FeatureType.STATE, (1,)),
            OTHER: PolicyFeature(FeatureType.ENV, (1,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (1,))},
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        device="cpu",
        **sizes,
    )
    relative = RelativeActionsProcessorStep(enabled=True)
    absolute = AbsoluteActionsProcessorStep(enabled=True, relative_step=relative)
    before = PolicyProcessorPipeline([relative], to_transition=batch_to_transition, to_output=transition_to_batch)
    after = PolicyProcessorPipeline(
        [absolute], to_transition=policy_action_to_transition, to_output=transition_to_policy_action
    )
    policy = ACTPolicy(config).eval()
    return LoadedPolicy(policy, config, before, after, keep_references(policy, before, after))


def offsets(policy: ACTPolicy, place: float, done: int) -> np.ndarray:
    """What the policy adds to the state in its next chunk."""
    policy.reset()
    seen = {STATE: torch.tensor([[place]]), OTHER: torch.tensor([[done / LENGTH]])}
    with torch.no_grad():
        found: np.ndarray = policy.predict_action_chunk(seen)[0, :, 0].numpy()
    return found


def test_a_chunk_is_added_to_the_state_that_it_was_predicted_from(tmp_path: Path) -> None:
    loaded = load()
    assert loaded.warnings == []
    joints = [Joint(), Joint()]
    vec = gym.vector.SyncVectorEnv([lambda j=j: FreezeAfterEpisodeEnd(j) for j in joints])
    same = (lambda x: x, lambda x: x)
    film = Film(tmp_path, 0, 10)
    run_task("go", vec, loaded, same, episodes=2, seed=3, film=film, listener=Listener())
    for number, joint in enumerate(joints):
        place, wanted = 3.0 + number, list[float]()
        while len(wanted) < LENGTH:
            wanted += (place + offsets(loaded.policy, place, len(wanted))).tolist()
            place = wanted[-1]
        np.testing.assert_allclose(joint.told, wanted[:LENGTH], rtol=1e-5)
        # The other sum, of each action and the state of its own step, is another one.
        first = offsets(loaded.policy, 3.0 + number, 0)
        assert np.abs(np.cumsum(first)[1:] - first[1:]).min() > 0.01


def test_a_server_gives_the_same_and_a_copied_processor_is_linked_again() -> None:
    loaded = load()
    request = Request({STATE: np.array([3.0], np.float32), OTHER: np.array([0.0], np.float32)}, "go")
    wanted = 3.0 + offsets(loaded.policy, 3.0, 0)
    own = tuple(map(copy.deepcopy, processors(loaded)))
    assert keep_references(loaded.policy, *own) == []
    for policy in (loaded, LoadedPolicy(loaded.policy, loaded.config, *own)):
        for alone in (True, False):
            np.testing.assert_allclose(Session(policy, alone=alone).act(request)[:, 0], wanted, rtol=1e-5)
    parameter = next(loaded.policy.parameters())
    copied = copy.deepcopy(loaded.preprocessor)
    assert (
        copied.steps[0]._policy() is loaded.policy
        and parameter.data_ptr() == next(loaded.policy.parameters()).data_ptr()
    )


def processors(loaded: LoadedPolicy) -> tuple[Any, Any]:
    return loaded.preprocessor, loaded.postprocessor


def test_a_policy_whose_queue_nobody_knows_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    known = load()
    monkeypatch.setattr(ACTPolicy, "name", "somebodys")
    [said] = keep_references(known.policy, *processors(known))
    assert "relative to the state" in said
