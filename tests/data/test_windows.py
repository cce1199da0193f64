"""Frame windows: pixels, validity, offsets, actions, cameras, mixtures and stable names."""

import numpy as np
import pytest
import torch
from small_datasets import LENGTHS, TOP, WRIST

from hlrp.data import FrameWindows, WindowSource, read_dataset, sequential_frames, split_episodes, window_offset
from hlrp.data.columns import read_column
from hlrp.errors import UserError


@pytest.fixture(scope="module")
def info(video_root):
    return read_dataset(None, video_root)


@pytest.fixture(scope="module")
def frames(info):
    return np.concatenate([c.frames for c in sequential_frames(info, TOP)])


def windows(info, *, cameras=(TOP,), episodes=None, **options):
    options.setdefault("offset_seconds", 0.3)
    return FrameWindows([WindowSource(info, episodes, cameras=list(cameras))], **options)


@pytest.mark.parametrize("num_frames", [2, 3, 4])
@pytest.mark.parametrize("cache", ["off", "ram"])
def test_a_window_is_t_frames_an_offset_apart(info, frames, num_frames, cache):
    dataset = windows(info, num_frames=num_frames, cache=cache)
    batch = dataset.__getitems__(list(range(len(dataset))))
    begin = np.cumsum([0, *LENGTHS])
    for episode, length in enumerate(LENGTHS):
        for at in range(length):
            row = begin[episode] + at
            inside = [at + 3 * j < length for j in range(1, num_frames)]
            assert batch["valid"][row].tolist() == inside
            assert batch["episode_index"][row] == episode
            wanted = [begin[episode] + min(at + 3 * j, length - 1) for j in range(num_frames)]
            assert np.array_equal(batch["frames"][row].numpy(), frames[wanted])
    assert batch["frames"].dtype == torch.uint8
    assert batch["frames"].shape == (sum(LENGTHS), num_frames, 3, 48, 64)


def test_one_sample_is_a_row_of_the_batch_and_collates_back(info):
    dataset = windows(info, with_actions=True, num_frames=3)
    batch = dataset.__getitems__([40, 3])
    samples = [dataset[40], dataset[3]]
    assert samples[0]["frames"].shape == (3, 3, 48, 64)
    for key, value in FrameWindows.collate(samples).items():
        assert torch.equal(value, batch[key]), key
    assert FrameWindows.collate(batch) is batch
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_the_offset_is_rounded_to_frames_of_the_source_and_at_least_one():
    assert [window_offset(s, 30) for s in (0.1, 0.6, 0.001, 1 / 30)] == [3, 18, 1, 1]
    assert window_offset(0.1, 80) == 8
    assert [window_offset(s, 30) for s in (0.09, 0.08, 0.051)] == [3, 2, 2]


def test_actions_are_summed_between_the_frames(info):
    actions = read_column(info, "action")
    dataset = windows(info, with_actions=True, num_frames=3)
    batch = dataset.__getitems__(list(range(len(dataset))))
    ends = np.repeat(np.cumsum(LENGTHS), LENGTHS)
    for row in range(len(dataset)):
        for j in range(2):
            first, last = row + 3 * j, row + 3 * (j + 1)
            expected = actions[first:last].sum(0) if last < ends[row] else np.zeros(3)
            assert np.allclose(batch["action_sum"][row, j], expected, atol=1e-5)
    assert batch["has_action"].all()


def test_only_labelled_episodes_show_their_actions(info):
    source = WindowSource(info, cameras=[TOP], labelled_episodes=[2])
    dataset = FrameWindows([source], offset_seconds=0.3, with_actions=True)
    batch = dataset.__getitems__(list(range(len(dataset))))
    assert torch.equal(batch["has_action"], batch["episode_index"] == 2)
    assert batch["action_sum"][~batch["has_action"]].abs().sum() == 0


def test_several_cameras_add_an_axis(info, frames):
    dataset = windows(info, cameras=[WRIST, TOP])
    batch = dataset.__getitems__([5, 20])
    assert batch["frames"].shape == (2, 2, 2, 3, 48, 64)
    assert np.array_equal(batch["frames"][0, :, 1].numpy(), frames[[5, 8]])


def test_windows_without_a_pair_can_be_dropped(info):
    dataset = windows(info, drop_invalid=True)
    batch = dataset.__getitems__(list(range(len(dataset))))
    assert batch["valid"][:, 0].all()
    assert len(dataset) == sum(n - 3 for n in LENGTHS)


def test_a_mixture_uses_each_sources_rate_and_pads_actions(info, image_root):
    pictures = read_dataset(None, image_root)
    sources = [WindowSource(pictures), WindowSource(info, cameras=[TOP], weight=3.0)]
    dataset = FrameWindows(sources, offset_seconds=0.1, with_actions=True)
    assert dataset.lengths == [27, sum(LENGTHS)]
    batch = dataset.__getitems__([30, 0, 26])
    assert batch["source"].tolist() == [1, 0, 0]
    assert batch["index"].tolist() == [3, 0, 26]
    assert batch["has_action"].tolist() == [True, False, False]
    assert batch["action_sum"].shape == (3, 1, 3)
    stored = np.concatenate([c.frames for c in sequential_frames(pictures)])
    edge = dataset.__getitems__([26, 27])  # the last of the one, the first of the other
    assert edge["source"].tolist() == [0, 1] and edge["index"].tolist() == [26, 0]
    assert np.array_equal(batch["frames"][1].numpy(), stored[[0, 3]])  # 30 fps: 3 frames; the video, at 10 fps: 1


def test_names_stay_whatever_is_chosen(info):
    train, held_out = split_episodes(info, 0.3)
    whole = windows(info).ids().tolist()
    parts = windows(info, episodes=train).ids().tolist() + windows(info, episodes=held_out).ids().tolist()
    assert sorted(parts) == whole
    part = windows(info, episodes=held_out)
    batch = part.__getitems__(list(range(len(part))))
    assert torch.stack([batch["source"], batch["index"]], dim=1).tolist() == part.ids().tolist()


def test_episodes_are_split_as_lerobot_does(info, video_root):
    from lerobot.configs.default import DatasetConfig
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.datasets.factory import make_train_eval_datasets
    from lerobot.policies.act.configuration_act import ACTConfig

    name = f"local/{video_root.name}"
    for fraction in (0.2, 0.34, 0.5):
        config = DatasetConfig(repo_id=name, root=str(video_root), eval_split=fraction, video_backend="pyav")
        theirs = make_train_eval_datasets(TrainPipelineConfig(dataset=config, policy=ACTConfig(device="cpu")))
        assert split_episodes(info, fraction) == tuple(sorted(d.episodes) for d in theirs)


def test_a_seeded_split_depends_on_the_seed_alone(info):
    first = split_episodes(info, 0.3, 1)
    assert first == split_episodes(info, 0.3, 1)
    assert any(split_episodes(info, 0.3, s) != first for s in range(2, 8))
    assert sorted(first[0] + first[1]) == list(range(len(LENGTHS)))
    assert split_episodes(info, 0.0, episodes=[3, 1]) == ([1, 3], [])
    with pytest.raises(UserError, match="leaves none"):
        split_episodes(info, 0.9, episodes=[0, 1])


def test_what_cannot_be_read_is_told(info, g1_root):
    with pytest.raises(UserError, match="2 frames or more"):
        windows(info, num_frames=1)
    with pytest.raises(UserError, match="must be positive"):
        windows(info, offset_seconds=0)
    mixed = [WindowSource(info, cameras=[TOP]), WindowSource(read_dataset(None, g1_root))]
    with pytest.raises(UserError, match="differ in size"):
        FrameWindows(mixed, offset_seconds=0.1)
    assert FrameWindows(mixed, offset_seconds=0.1, size=32).size == (32, 32)
    with pytest.raises(UserError, match="number of cameras"):
        FrameWindows([WindowSource(info, cameras=[TOP, WRIST]), mixed[1]], offset_seconds=0.1, size=32)
