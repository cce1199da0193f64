"""ACT from a clean class: editors complete its fields, type checkers check them, Lightning trains it.

    python examples/clean_classes.py DATASET OUTPUT

DATASET is the folder of a LeRobotDataset; the run is left in OUTPUT, which `hlrp train --resume` and `hlrp eval` take.
"""

import sys
from pathlib import Path

import torch

from hlrp.data import LeRobotDataModule
from hlrp.policies.lerobot import ACT
from trainers import LightningTrainer


def train(dataset: Path, output: Path) -> Path:
    """Train a small ACT; the checkpoint."""
    policy = ACT(
        hidden_dim=64,
        n_heads=4,
        dim_feedforward=128,
        chunk_size=8,
        n_action_steps=4,
        learning_rate=1e-4,
        pretrained_backbone_weights=None,
    )
    data = LeRobotDataModule(root=dataset, batch_size=4, cache="ram")
    result = LightningTrainer(steps=4, save_freq=4, log_freq=1, device="cpu").fit(policy, data, output_dir=output)
    if result.checkpoint is None:
        raise RuntimeError("no checkpoint was saved")
    return result.checkpoint


def act(checkpoint: Path, dataset: Path) -> torch.Tensor:
    """The trained policy's action for black pictures; float32 `[1, A]`."""
    policy = ACT.from_pretrained(checkpoint, temporal_ensemble_coeff=0.01, n_action_steps=1)
    features = LeRobotDataModule(root=dataset).info.features
    observation: dict[str, torch.Tensor] = {}
    for name, feature in features.items():
        if feature["dtype"] in ("video", "image"):
            height, width, channels = feature["shape"]
            observation[name] = torch.zeros(1, channels, height, width)
        elif name.startswith("observation."):
            observation[name] = torch.zeros(1, *feature["shape"])
    return policy.select_action(observation)


if __name__ == "__main__":
    root, run = Path(sys.argv[1]), Path(sys.argv[2])
    print(act(train(root, run), root))
