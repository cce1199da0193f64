"""Staged demonstrations as a LeRobotDataset v3.0. Runs in a process of its own: encoders write to the terminal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hlrp.errors import UserError
from hlrp.files import write_json
from hlrp.sim.catalog import recording_of, task_description
from hlrp.sim.interface import Recording
from hlrp.sim.staging import Staging

METADATA = Path("meta") / "hlrp_collect.json"
SCHEMA_VERSION = 1


def features(recording: Recording, image_size: int) -> dict[str, dict[str, Any]]:
    """Features of a recorded dataset, in LeRobot's notation."""
    size = (image_size, image_size, 3)
    picture = {"dtype": "video", "shape": size, "names": ["height", "width", "channels"]}
    return {
        **{f"{recording.prefix}{name}": dict(picture) for name in recording.cameras.values()},
        "observation.state": _vector(recording.state),
        "action": _vector(recording.action),
    }


def _vector(names: tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": (len(names),), "names": list(names)}


def build_dataset(
    send: Callable[[int], None], staging_root: Path, chosen: list[tuple[str, int]], metadata: dict[str, Any]
) -> None:
    """Write the chosen attempts as `staging/dataset`.

    Args:
        send: Called with the number of frames after each episode.
        staging_root: Folder of the `Staging`.
        chosen: (task, attempt number) of each episode, in the order of the dataset.
        metadata: Content of `meta/hlrp_collect.json`; `env_type` and `image_size` are read from it, `episodes` is
            added.
    """
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    staging = Staging(staging_root)
    recording = recording_of(metadata["env_type"])
    dataset = LeRobotDataset.create(
        repo_id=f"local/{staging_root.stem}",
        fps=recording.fps,
        features=features(recording, metadata["image_size"]),
        root=staging.dataset,
        robot_type=recording.robot_type,
        # LeRobot's AV1 with a finer quantizer: at 96 pixels its default, 30, loses 0.6 dB and saves no time.
        rgb_encoder=RGBEncoderConfig(crf=23),
        # Straight from memory, a third faster than through PNG files; no frame may be dropped for a full queue.
        streaming_encoding=True,
        encoder_queue_maxsize=10_000,
    )
    episodes = []
    for index, (task, number) in enumerate(chosen):
        demonstration = staging.load(task, number)
        sentence = task_description(task)
        for step, (state, action) in enumerate(zip(demonstration.state, demonstration.action, strict=True)):
            pictures = {f"{recording.prefix}{name}": images[step] for name, images in demonstration.images.items()}
            dataset.add_frame({**pictures, "observation.state": state, "action": action, "task": sentence})
        dataset.save_episode()
        frames = len(demonstration.action)
        seed = demonstration.reset_seed
        episodes.append({"episode_index": index, "task": task, "reset_seed": seed, "frames": frames})
        send(frames)
    dataset.finalize()
    write_json(staging.dataset / METADATA, {**metadata, "episodes": episodes})


def read_metadata(dataset_root: Path) -> dict[str, Any] | None:
    """Content of `meta/hlrp_collect.json`, or None if `hlrp collect` did not record this dataset.

    Keys: `env_type`, `camera_name`, `image_size`, `tasks`, `noise`, `camera_shake`, `seed`, `failed_attempts`,
    `versions` and `episodes`, a list of `{episode_index, task, reset_seed, frames}`.
    """
    path = dataset_root / METADATA
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            "this file is not JSON that can be read", where=str(path), fix="restore it, or delete it"
        ) from error
    if content.get("schema_version") != SCHEMA_VERSION:
        what = f"schema version {content.get('schema_version')!r} is not {SCHEMA_VERSION}"
        raise UserError(what, where=str(path), fix="use the release of hlrp that recorded it")
    return content
