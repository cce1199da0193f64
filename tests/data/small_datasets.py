"""Recording small datasets through LeRobot's own writer."""

import numpy as np

LENGTHS = [13, 21, 9, 17, 30]
TOP, WRIST = "observation.images.top", "observation.images.wrist"


def _picture(height, width, step):
    """Smooth colours that move: compressible, yet different in every frame and pixel."""
    y, x = np.mgrid[0:height, 0:width]
    phase = step * 0.37
    channels = [np.sin(x / (5 + c) + phase) * np.cos(y / (7 - c) - phase * 0.5) for c in range(3)]
    return (127 + 120 * np.stack(channels, axis=-1)).astype(np.uint8)


def record(root, features, fps, lengths, images):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    state = {"observation.state": {"dtype": "float32", "shape": (2,), "names": None}}
    dataset = LeRobotDataset.create(repo_id=f"local/{root.name}", fps=fps, root=root, features=state | features)
    rng = np.random.default_rng(5)
    for episode, length in enumerate(lengths):
        for step in range(length):
            frame = {"observation.state": np.zeros(2, np.float32), "task": ("push", "pull")[episode % 2]}
            frame |= {k: _picture(*features[k]["shape"][:2], step + 31 * episode + 7 * i) for i, k in enumerate(images)}
            if "action" in features:
                frame["action"] = rng.uniform(-1, 1, features["action"]["shape"]).astype(np.float32)
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()
    return root


def camera(dtype, height, width):
    return {"dtype": dtype, "shape": (height, width, 3), "names": ["height", "width", "channels"]}
