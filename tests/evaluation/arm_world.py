"""A small environment for diagnoses, its recording, and a policy that has learned it: two joints, two cameras."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import yaml
from gymnasium.vector import SyncVectorEnv
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

FPS, SIZE = 10, 32
JOINTS = ["pan", "lift"]
STATE = [*JOINTS, "goal_pan", "goal_lift"]
CAMERAS = ("top", "side")
RENAMED = {"observation.images.top": "observation.images.high", "observation.images.side": "observation.images.low"}
"""The policy calls the cameras by other names than data and environment."""
_SPEED = 0.8  # rad/s


class ArmWorld(gym.Env):
    """Two joints that follow their targets at a limited speed; solved when they are at the goal.

    Observation: `pixels` of two cameras, and `agent_pos`: both joints, then both of the goal, in radians. Action:
    targets in radians. The other arguments are faults.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": FPS}
    task = task_description = "reach"

    def __init__(self, fps: int, episode_length: int, flip: bool, bgr: bool, swap: bool, degrees: bool) -> None:
        self._step, self._max_episode_steps = _SPEED / fps, episode_length
        self._flip, self._bgr, self._swap, self._degrees = flip, bgr, swap, degrees
        frame = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        pixels = gym.spaces.Dict(dict.fromkeys(CAMERAS, frame))
        self.observation_space = gym.spaces.Dict(
            {"pixels": pixels, "agent_pos": gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)}
        )
        self.action_space = gym.spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.joints, self.goal = self.np_random.uniform(-1, -0.4, 2), self.np_random.uniform(0.4, 1, 2)
        self._elapsed = 0
        return self._observation(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.joints = self.joints + np.clip(action - self.joints, -self._step, self._step)
        self._elapsed += 1
        success = bool(np.abs(self.joints - self.goal).max() < 0.04)
        truncated = self._elapsed >= self._max_episode_steps
        info: dict[str, Any] = {"is_success": success}
        if success or truncated:
            info["final_info"] = dict(info)
        return self._observation(), float(success), success, truncated, info

    def expert(self) -> np.ndarray:
        return (self.joints + np.clip(self.goal - self.joints, -0.06, 0.06)).astype(np.float32)

    def render(self) -> np.ndarray:
        return self._pictures()["top"]

    def _pictures(self) -> dict[str, np.ndarray]:
        ramp = np.linspace(20, 200, SIZE).astype(np.uint8)
        found = {}
        for camera, shown in zip(CAMERAS, (self.joints, self.joints[::-1] * 0.5), strict=True):
            picture = np.full((SIZE, SIZE, 3), 60 if camera == "top" else 130, np.uint8)
            picture[..., 0], picture[..., 1] = ramp, ramp[:, None] // 2
            picture[:4, : SIZE // 2] = (250, 240, 30) if camera == "top" else (30, 240, 120)
            x, y = ((shown + 1.2) / 2.4 * (SIZE - 6)).astype(int)
            picture[y : y + 6, x : x + 6] = (255, 255, 255)
            found[camera] = picture
        return found

    def _observation(self) -> dict[str, Any]:
        pictures = self._pictures()
        if self._swap:
            pictures = dict(zip(CAMERAS, [pictures[c] for c in CAMERAS[::-1]], strict=True))
        if self._flip:
            pictures = {name: picture[::-1] for name, picture in pictures.items()}
        if self._bgr:
            pictures = {name: picture[..., ::-1] for name, picture in pictures.items()}
        state = np.concatenate([self.joints, self.goal])
        pictures = {name: np.ascontiguousarray(picture) for name, picture in pictures.items()}
        return {"pixels": pictures, "agent_pos": np.degrees(state) if self._degrees else state}


@EnvConfig.register_subclass("arm_world")
@dataclass
class ArmWorldConfig(EnvConfig):
    """LeRobot's configuration of `ArmWorld`."""

    task: str | None = "reach"
    fps: int = FPS
    episode_length: int = 60
    flip: bool = False
    bgr: bool = False
    swap: bool = False
    degrees: bool = False
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {"action": PolicyFeature(FeatureType.ACTION, (2,))}
    )
    features_map: dict[str, str] = field(default_factory=lambda: {"action": "action"})

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("fps", "episode_length", "flip", "bgr", "swap", "degrees")}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, Any]]:
        return {"arm_world": {0: SyncVectorEnv([lambda: ArmWorld(**self.gym_kwargs)] * n_envs)}}


def record(root: Path, seeds: range) -> Path:
    """Record the expert as `hlrp collect` does, with the seeds of the episodes."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32"}
    frame = {"dtype": "video", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.state": {**vector, "shape": (4,), "names": STATE},
        "action": {**vector, "shape": (2,), "names": JOINTS},
        **{f"observation.images.{camera}": frame for camera in CAMERAS},
    }
    dataset = LeRobotDataset.create(repo_id="local/arm", fps=FPS, root=root, features=features)
    env, episodes = ArmWorld(**ArmWorldConfig().gym_kwargs), []
    for index, seed in enumerate(seeds):
        observation, over, frames = env.reset(seed=seed)[0], False, 0
        while not over:
            action = env.expert()
            pictures = {f"observation.images.{c}": observation["pixels"][c] for c in CAMERAS}
            state = observation["agent_pos"].astype(np.float32)
            dataset.add_frame({"observation.state": state, "action": action, **pictures, "task": "reach"})
            observation, _, over, _, _ = env.step(action)
            frames += 1
        dataset.save_episode()
        episodes.append({"episode_index": index, "task": "reach", "reset_seed": seed, "frames": frames})
    dataset.finalize()
    said = {"schema_version": 1, "env_type": "arm_world", "tasks": ["reach"], "episodes": episodes}
    (root / "meta" / "hlrp_collect.json").write_text(json.dumps(said))
    return root


def train(run: Path, root: Path, steps: int) -> Path:
    """Train a small ACT on a recording, as a run whose settings say so; the cameras have other names in it."""
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
    from tiny_policies import ACT

    from hlrp.runs import RunDirectory

    dataset = LeRobotDataset("local/arm", root, delta_timestamps={"action": [i / FPS for i in range(8)]})
    images = {name: PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE)) for name in RENAMED.values()}
    config = make_policy_config(
        "act",
        device="cpu",
        push_to_hub=False,
        pretrained_backbone_weights=None,
        use_vae=False,
        input_features={**images, "observation.state": PolicyFeature(FeatureType.STATE, (4,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        **{**ACT, "dim_model": 64, "chunk_size": 8, "n_action_steps": 4, "dropout": 0.0},
    )
    torch.manual_seed(0)
    policy = get_policy_class("act")(config)
    stats = {RENAMED.get(name, name): value for name, value in dataset.meta.stats.items()}
    processors = make_pre_post_processors(
        config, dataset_stats=stats, preprocessor_overrides={"rename_observations_processor": {"rename_map": RENAMED}}
    )
    for step in processors[0].steps:
        if hasattr(step, "rename_map"):
            step.rename_map = RENAMED
    policy.model.backbone.requires_grad_(False)  # a third of the time, and the state says enough
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    everything = torch.utils.data.default_collate([dataset[i] for i in range(len(dataset))])
    drawn = torch.Generator().manual_seed(0)
    policy.train()
    for _ in range(steps):
        rows = torch.randint(len(dataset), (12,), generator=drawn)
        batch = {k: v[rows] if isinstance(v, torch.Tensor) else [v[i] for i in rows] for k, v in everything.items()}
        loss, _ = policy.forward(processors[0](batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    folder = run / "checkpoints" / f"{steps:06d}" / "pretrained_model"
    settings = {"data": {"root": str(root), "rename_map": RENAMED}}
    RunDirectory.create(run, config_yaml=yaml.safe_dump(settings))
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return run
