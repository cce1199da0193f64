"""Sequential decoding: LeRobot's pixels, in order, with one error for a broken file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_datasets import LENGTHS, TOP, WRIST

from hlrp.data import BadVideoError, read_dataset, read_episodes, sequential_frames
from hlrp.data.decode import resize_frames
from hlrp.errors import UserError


def lerobot_frames(root, camera, indices=None):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset(f"local/{Path(root).name}", root=root, video_backend="pyav")
    chosen = range(len(dataset)) if indices is None else indices
    return np.stack([(dataset[int(i)][camera] * 255).round().to(torch.uint8).numpy() for i in chosen])


def all_frames(root, camera=None, **options):
    chunks = list(sequential_frames(read_dataset(None, root), camera, **options))
    return chunks, np.concatenate([c.frames for c in chunks])


@pytest.mark.parametrize("camera", [TOP, WRIST])
def test_every_frame_of_a_video_equals_lerobots(video_root, camera):
    chunks, frames = all_frames(video_root, camera, chunk=8)
    assert np.array_equal(frames, lerobot_frames(video_root, camera))
    expected = [(e, s) for e, n in enumerate(LENGTHS) for s in range(0, n, 8)]
    assert [(c.episode, c.start) for c in chunks] == expected


def test_every_picture_of_a_table_equals_lerobots(image_root):
    _, frames = all_frames(image_root, chunk=5)
    assert np.array_equal(frames, lerobot_frames(image_root, "observation.image"))


def test_real_robot_frames_equal_lerobots(g1_root):
    chunks, frames = all_frames(g1_root, episodes=[1, 6])
    starts = read_episodes(read_dataset(None, g1_root)).frame_indices([1, 6])
    picked = np.linspace(0, len(starts) - 1, 12).astype(int)
    reference = lerobot_frames(g1_root, "observation.images.cam_high", starts[picked])
    assert np.array_equal(frames[picked], reference)
    assert {c.episode for c in chunks} == {1, 6}


def test_chosen_episodes_come_alone_and_in_order(video_root):
    chunks, frames = all_frames(video_root, TOP, episodes=[4, 1])
    whole = lerobot_frames(video_root, TOP)
    begin = np.cumsum([0, *LENGTHS])
    expected = np.concatenate([whole[begin[e] : begin[e + 1]] for e in (1, 4)])
    assert [c.episode for c in chunks] == [1, 4]
    assert np.array_equal(frames, expected)


def test_resizing_is_torchvisions(video_root):
    from torchvision.transforms.v2.functional import resize

    _, whole = all_frames(video_root, TOP)
    for size in ((24, 32), (40, 40), (96, 96)):
        _, frames = all_frames(video_root, TOP, size=size)
        reference = resize(torch.from_numpy(np.ascontiguousarray(whole)), list(size), antialias=True).numpy()
        # torchvision and the layout of the input may choose another kernel: no more than rounding may differ.
        assert np.abs(frames.astype(int) - reference.astype(int)).max() <= 1
        assert np.array_equal(frames, resize_frames(whole, size))
    _, square = all_frames(video_root, TOP, size=24)
    assert square.shape[1:] == (3, 24, 24)


@pytest.fixture
def broken_root(video_root, tmp_path):
    """The top camera's file has noise in its middle."""
    root = tmp_path / "broken"
    shutil.copytree(video_root, root)
    path = next((root / "videos" / TOP).rglob("*.mp4"))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle - 400 : middle + 400] = np.random.default_rng(0).integers(0, 256, 800, np.uint8).tobytes()
    path.write_bytes(data)
    return root


def test_a_broken_file_is_one_error_that_names_file_and_episode(broken_root):
    with pytest.raises(BadVideoError) as caught:
        all_frames(broken_root, TOP)
    message = str(caught.value)
    assert f"episode {caught.value.episode}" in message
    assert ".mp4" in message and TOP in message
    assert caught.value.exit_code == 1


def test_bad_episodes_can_be_left_out(broken_root, video_root):
    bad = []
    chunks = list(sequential_frames(read_dataset(None, broken_root), TOP, on_bad=bad.append))
    wrong = sorted(error.episode for error in bad)
    whole = lerobot_frames(video_root, TOP)
    begin = np.cumsum([0, *LENGTHS])
    # What lies before the noise is untouched; what a decoder makes of pictures behind it is its own affair.
    assert wrong[0] > 0 and len(wrong) < len(LENGTHS)
    for episode in range(wrong[0]):
        frames = np.concatenate([c.frames for c in chunks if c.episode == episode])
        assert np.array_equal(frames, whole[begin[episode] : begin[episode + 1]])
    read = {episode: sum(len(c.frames) for c in chunks if c.episode == episode) for episode in range(len(LENGTHS))}
    assert all(read[episode] == LENGTHS[episode] for episode in read if episode not in wrong)


@pytest.mark.parametrize("part_of_a_frame", [0.5, 0.05])
def test_times_that_lie_beside_the_frames_are_refused(video_root, tmp_path, part_of_a_frame):
    """Ten frames a second: a table that is late by half a frame, or by 5 ms, does not belong to the video."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path / "late"
    shutil.copytree(video_root, root)
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        times = table.column("timestamp").to_numpy() + np.float32(0.1 * part_of_a_frame)
        place = table.schema.get_field_index("timestamp")
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(times, pa.float32())), path)
    bad = []
    chunks = list(sequential_frames(read_dataset(None, root), TOP, on_bad=bad.append))
    assert chunks == [] and [error.episode for error in bad] == list(range(len(LENGTHS)))


@pytest.mark.parametrize("damage", ["empty", "missing", "cut"])
def test_a_file_that_cannot_be_opened_names_every_episode_in_it(video_root, tmp_path, damage):
    root = tmp_path / damage
    shutil.copytree(video_root, root)
    path = next((root / "videos" / TOP).rglob("*.mp4"))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"")
    bad = []
    assert list(sequential_frames(read_dataset(None, root), TOP, on_bad=bad.append)) == []
    assert [error.episode for error in bad] == list(range(len(LENGTHS)))
    assert all(error.path == path for error in bad)


def test_a_wrong_camera_or_episode_is_told(video_root):
    info = read_dataset(None, video_root)
    with pytest.raises(UserError, match="2 cameras"):
        next(sequential_frames(info))
    with pytest.raises(UserError, match=r"did you mean 'observation\.images\.top'"):
        next(sequential_frames(info, "observation.images.tap"))
    with pytest.raises(UserError, match="do not exist"):
        next(sequential_frames(info, TOP, [7]))
