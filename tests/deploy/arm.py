"""Data of the simulated arm, recorded with LeRobot's own classes, and tiny policies of random weights for it."""

from pathlib import Path
from typing import Any

import numpy as np
from tiny_policies import ACT, CODES

from hlrp.data.dataset_info import read_dataset
from hlrp.runs import DatasetRecord, RunDirectory

FPS = 50
TASK = "wave"
LATENT = "hlrp_action_expert_latent"


def record(root: Path, *, episodes: int = 2, length: int = 40, **settings: Any) -> Path:
    """Record the arm waving, as `lerobot-record` does: features from the robot, frames from its observations."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features
    from lerobot_robot_simarm import SimArm, SimArmConfig

    arm = SimArm(SimArmConfig(calibration_dir=root.parent / "calibration", fps=FPS, **settings))
    features = {
        **hw_to_dataset_features(arm.action_features, "action", use_video=False),
        **hw_to_dataset_features(arm.observation_features, "observation", use_video=False),
    }
    dataset = LeRobotDataset.create(root.name, FPS, root=root, features=features, robot_type=arm.name, use_videos=False)
    middle, width = np.array([0.4, -0.7, 0.9]), np.array([0.5, 0.4, 0.6])
    scale = np.degrees(1) if arm.config.degrees else 1.0
    arm.connect()
    try:
        for episode in range(episodes):
            for step in range(length):
                angles = scale * (middle + width * np.sin(0.15 * step + np.array([0.2, 1.9, 4.1]) + episode))
                action = {f"{joint}.pos": float(a) for joint, a in zip(arm.config.joints, angles, strict=True)}
                observed = arm.get_observation()
                frame = build_dataset_frame(features, observed, "observation")
                frame |= build_dataset_frame(features, action, "action")
                dataset.add_frame({**frame, "task": TASK})
                arm.send_action(action)
            dataset.save_episode()
        dataset.finalize()
    finally:
        arm.disconnect()
    return root


FIELDS: dict[str, dict[str, Any]] = {
    "act": {**ACT, "pretrained_backbone_weights": None},
    LATENT: {"chunk_size": 100, "n_action_steps": 10, "num_steps": 3, **CODES},
    "hlrp_vla_direct": {"chunk_size": 20, "n_action_steps": 10, **CODES},
}


def save_policy(run: Path, root: Path, name: str = "act", *, seed: int = 0, **fields: Any) -> Path:
    """Save a policy of random weights, with the statistics of a dataset, as a run that was trained on it."""
    import torch
    from lerobot.configs.types import FeatureType
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
    from lerobot.utils.feature_utils import dataset_to_policy_features
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    meta = LeRobotDatasetMetadata(root.name, root=root)
    features = dataset_to_policy_features(meta.features)
    config = make_policy_config(
        name,
        device="cpu",
        push_to_hub=False,
        input_features={k: f for k, f in features.items() if f.type is not FeatureType.ACTION},
        output_features={k: f for k, f in features.items() if f.type is FeatureType.ACTION},
        **{**FIELDS[name], **fields},
    )
    torch.manual_seed(seed)
    policy = get_policy_class(name)(config)
    info = read_dataset(None, root)
    record = DatasetRecord(root=str(root), fingerprint=info.fingerprint(), fps=info.fps)
    RunDirectory.create(run, config_yaml="", trainer="lightning", policy=name, dataset=record)
    folder = run / "checkpoints" / "000001" / "pretrained_model"
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=meta.stats):
        processor.save_pretrained(folder)
    return run
