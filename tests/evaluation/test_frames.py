"""Frames on demand: the same actions, rewards and videos as drawing every frame, from fewer of them."""

from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from hlrp.evaluation.frames import ON_DEMAND, reads_next_observation
from hlrp.evaluation.policy import LoadedPolicy
from hlrp.evaluation.request import Listener, TaskResult
from hlrp.evaluation.rollout import Film, run_task
from hlrp.sim.light import Frames
from hlrp.sim.metaworld_gym import LightMetaworldEnv, create_vector_envs

SIZE, LENGTH = 48, 23
TASK = "reach-v3"
FEATURES = {
    "input_features": {
        "observation.images.corner2": PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE)),
        "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
    },
    "output_features": {"action": PolicyFeature(FeatureType.ACTION, (4,))},
}


def tiny_act(**fields: Any) -> Any:
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    sizes = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "use_vae": False}
    config = ACTConfig(device="cpu", pretrained_backbone_weights=None, chunk_size=6, **FEATURES, **sizes, **fields)
    torch.manual_seed(0)
    return ACTPolicy(config).eval()


def tiny_diffusion() -> Any:
    """Its actions come from two observations, the one at hand and the one before."""
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    config = DiffusionConfig(
        device="cpu",
        n_obs_steps=2,
        horizon=8,
        n_action_steps=6,
        num_inference_steps=2,
        down_dims=(16, 32),
        n_groups=4,
        spatial_softmax_num_keypoints=4,
        crop_shape=None,
        pretrained_backbone_weights=None,
        **FEATURES,
    )
    torch.manual_seed(0)
    return DiffusionPolicy(config).eval()


class Recorded(torch.nn.Module):
    """A policy that keeps the actions it gave; `name` and queues are the policy's."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy, self.given = policy, []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.policy, name)

    def select_action(self, observation: dict[str, Any]) -> torch.Tensor:
        observation.pop("task")
        self.given.append(self.policy.select_action(observation))
        return self.given[-1]


def run(policy: Any, folder: Path, *, on_demand: bool, videos: int = 0, copies: int = 2) -> tuple[TaskResult, Any, int]:
    """The outcome, every action, and how many frames were drawn."""
    vec = create_vector_envs(TASK, copies, {"image_size": SIZE, "episode_length": LENGTH})[TASK][0]
    vec.metadata = {**vec.metadata, ON_DEMAND: on_demand}
    drawn: Counter[bool] = Counter()
    draw = Frames.render

    def counted(self: Any, mode: str) -> np.ndarray:
        drawn[self.black] += 1
        return draw(self, mode)

    config = SimpleNamespace(device="cpu", use_amp=False)
    recorded = Recorded(policy)
    loaded = LoadedPolicy(recorded, config, lambda x: x, lambda x: x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frames, "render", counted)
        film = Film(folder, videos, 80)
        same = (lambda x: x, lambda x: x)
        result = run_task(TASK, vec, loaded, same, episodes=2, seed=3, film=film, listener=Listener())
    vec.close()
    return result, torch.stack(recorded.given), drawn[False]


@pytest.mark.parametrize(
    ("make", "frames"),
    [
        # Of two copies the frames before steps 0, 6, 12 and 18, and the last one.
        (lambda: tiny_act(n_action_steps=6), 10),
        # Of every chunk but the first also the frame of the step before.
        (tiny_diffusion, 16),
        (lambda: tiny_act(n_action_steps=1, temporal_ensemble_coeff=0.01), 48),
    ],
    ids=["act", "diffusion with a history", "act at every step"],
)
def test_a_policy_acts_as_with_every_frame_drawn(make: Any, frames: int, tmp_path: Path) -> None:
    always, every, all_frames = run(make(), tmp_path, on_demand=False)
    demand, some, drawn = run(make(), tmp_path, on_demand=True)
    assert torch.equal(every, some) and every.shape == (LENGTH, 2, 4)
    assert always.episodes == demand.episodes
    assert (all_frames, drawn) == (48, frames)


def test_the_policies_of_this_test_look_at_the_picture(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    for policy in (tiny_act(n_action_steps=6), tiny_diffusion()):
        observation = {
            "observation.images.corner2": torch.rand(1, 3, SIZE, SIZE),
            "observation.state": torch.zeros(1, 4),
        }
        given = []
        for picture in (observation["observation.images.corner2"], torch.zeros(1, 3, SIZE, SIZE)):
            policy.reset()
            torch.manual_seed(0)
            given.append(policy.select_action({**observation, "observation.images.corner2": picture}))
        assert not torch.equal(*given)


def test_a_video_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av
    from lerobot.utils import io_utils

    write, given = io_utils.write_video, []

    def written(path: Path, frames: list[np.ndarray], fps: int) -> None:
        given.append(np.stack(frames))
        write(path, frames, fps)

    monkeypatch.setattr(io_utils, "write_video", written)
    for name, on_demand in (("all", False), ("demand", True)):
        result, _, _ = run(tiny_act(n_action_steps=6), tmp_path / name, on_demand=on_demand, videos=1, copies=1)
        with av.open(result.videos[0]) as video:
            film = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        # Lossy, and of the very same frames the encoder makes another file once in a hundred: compared before it.
        assert film.shape == given[-1].shape
        assert np.abs(film.astype(int) - given[-1]).mean() < 8
    assert len(given) == 2 and len(given[0]) == LENGTH + 1
    np.testing.assert_array_equal(*given)


def test_what_is_not_drawn_is_black_and_an_episode_ends_with_its_frame() -> None:
    env = LightMetaworldEnv(TASK, image_size=SIZE, episode_length=4)
    first, _ = env.reset(seed=1)
    env.draw_frames(False)
    seen = [env.step(np.ones(4, np.float32))[0]["pixels"]["corner2"] for _ in range(4)]
    assert [bool(frame.any()) for frame in (first["pixels"]["corner2"], *seen)] == [True, False, False, False, True]
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(again["pixels"]["corner2"], first["pixels"]["corner2"])
    env.step(np.ones(4, np.float32))
    shown = env.render()
    env.draw_frames(True)
    env.reset(seed=1)
    np.testing.assert_array_equal(env.step(np.ones(4, np.float32))[0]["pixels"]["corner2"], shown)
    env.close()


def test_unknown_policies_see_every_frame() -> None:
    waiting = deque([1, 2, 3], maxlen=8)
    assert not reads_next_observation(SimpleNamespace(name="act", _action_queue=waiting))
    assert reads_next_observation(SimpleNamespace(name="somebody_elses", _action_queue=waiting))
    assert reads_next_observation(SimpleNamespace(name="act"))
    queues = {"action": waiting, "observation.images": deque(maxlen=4)}
    assert reads_next_observation(SimpleNamespace(name="diffusion", _queues=queues))
    assert not reads_next_observation(SimpleNamespace(name="hlrp_vla_direct", _queues={}, _action_queue=waiting))
