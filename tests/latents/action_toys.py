"""Datasets without video whose latents tell the actions by a map that is known, with the tables of these latents."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hlrp.data import DatasetInfo, read_dataset, read_episodes, window_offset
from hlrp.latents import LatentTable
from hlrp.latents.shards import LatentIdentity, ShardRows, plan_shards
from hlrp.latents.table import finish_table

FPS, OFFSET_SECONDS, OFFSET = 10, 0.2, 2
CAMERA, STATE = "observation.image", "observation.state"
SHA256 = "a" * 64
EPISODES, LENGTH = 6, 40


def record(
    root: Path,
    actions: list[np.ndarray],
    *,
    states: list[np.ndarray] | None = None,
    action_names: list[str] | None = None,
    state_names: list[str] | None = None,
    tasks: tuple[str, ...] = ("reach",),
    fps: int = FPS,
) -> Path:
    """Record episodes of these actions ``[n, A]`` and states ``[n, B]``; they take the ``tasks`` in turn."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features: dict[str, dict[str, object]] = {
        "action": {"dtype": "float32", "shape": (actions[0].shape[1],), "names": action_names}
    }
    if states is not None:
        features[STATE] = {"dtype": "float32", "shape": (states[0].shape[1],), "names": state_names}
    dataset = LeRobotDataset.create(repo_id=root.name, fps=fps, root=root, features=features, use_videos=False)
    for episode, rows in enumerate(actions):
        for step, action in enumerate(rows):
            frame: dict[str, object] = {"action": action.astype(np.float32), "task": tasks[episode % len(tasks)]}
            if states is not None:
                frame[STATE] = states[episode][step].astype(np.float32)
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()
    return root


def label(
    info: DatasetInfo,
    output: Path,
    latents: list[np.ndarray],
    *,
    vectors: bool = True,
    spoiled: tuple[int, ...] = (),
    **changes: object,
) -> LatentTable:
    """Write the table of these latents ``[n, D]``, one code position of two codes: whether the first number is > 0."""
    table = read_episodes(info)
    values: dict[str, object] = {
        "codebook_size": 2,
        "code_seq_len": 1,
        "num_frames": 2,
        "offset_seconds": OFFSET_SECONDS,
        "laq_sha256": SHA256,
        "vector_dim": latents[0].shape[1] if vectors else None,
        "dataset_fingerprint": info.fingerprint(),
        "camera": CAMERA,
        "offset_frames": window_offset(OFFSET_SECONDS, info.fps),
        "rows": info.frames,
        "episodes": info.episodes,
        "shard_frames": 64,
    }
    identity = LatentIdentity.model_validate(values | changes)
    output.mkdir(parents=True)
    shards = plan_shards(table, identity.shard_frames)
    for shard in shards:
        rows = ShardRows(identity, shard, table)
        for episode in range(shard.first_episode, shard.end_episode):
            index = np.arange(table.start[episode], table.end[episode])
            valid = (index + identity.offset_frames < table.end[episode])[:, None]
            of_frame = latents[episode][:, None, None, :].astype(np.float32)
            rows.fill(index, (of_frame[..., 0] > 0).astype(np.int64), valid, of_frame if vectors else None)
            if episode in spoiled:
                rows.spoil(episode)
        rows.write(output)
    assert finish_table(output, identity, shards)
    return LatentTable.open(output)


def planted(
    folder: Path,
    *,
    episodes: int = 6,
    length: int = 40,
    width: int = 4,
    noise: float = 0.0,
    seed: int = 0,
    tasks: tuple[str, ...] = ("reach",),
) -> tuple[DatasetInfo, LatentTable, np.ndarray]:
    """Actions of three dimensions that are a linear map of the latents at their step, plus noise.

    Returns:
        The dataset, its table, and the map ``[width, 3]``.
    """
    rng = np.random.default_rng(seed)
    mapping = rng.normal(size=(width, 3))
    latents = [rng.normal(size=(length, width)) for _ in range(episodes)]
    actions = [z @ mapping + noise * rng.normal(size=(length, 3)) for z in latents]
    info = read_dataset(None, record(folder / "data", actions, action_names=["x", "y", "z"], tasks=tasks))
    return info, label(info, folder / "table", latents), mapping


def spoil_column(info: DatasetInfo, column: str, keep: list[int]) -> None:
    """Make a column NaN in all episodes but ``keep``, in the dataset's files."""
    for path in info.tables:
        table = pq.read_table(path)
        values = np.asarray(table.column(column).to_pylist(), np.float32)
        values[~np.isin(np.asarray(table.column("episode_index")), keep)] = np.nan
        filled = pa.array(values.tolist(), table.schema.field(column).type)
        pq.write_table(table.set_column(table.schema.get_field_index(column), table.schema.field(column), filled), path)
