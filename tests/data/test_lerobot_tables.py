"""LeRobot's tables made in large pieces hold what LeRobot's own hold, and little is kept of them."""

import shutil

import datasets
import pyarrow as pa
import pytest
from lerobot.datasets import dataset_reader, io_utils
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from small_datasets import LENGTHS

from hlrp.data import lerobot_tables
from hlrp.data.lerobot_reader import read_compactly
from hlrp.data.lerobot_tables import all_there, load_tables


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


CHANGED = [
    (owner, name, getattr(owner, name))
    for owner, name in (
        (dataset_reader, "load_nested_dataset"),
        (io_utils, "load_nested_dataset"),
        (dataset_reader.DatasetReader, "_check_cached_episodes_sufficient"),
        (dataset_reader.DatasetReader, "_build_index_mapping"),
    )
]
"""What `read_compactly` changes, as LeRobot has it: this file is read before any test runs."""


@pytest.fixture(autouse=True)
def stock_again(monkeypatch):
    """LeRobot as it comes, whatever other tests had it changed to; call it to have that again."""

    def restore():
        for owner, name, stock in CHANGED:
            monkeypatch.setattr(owner, name, stock)

    restore()
    return restore


@pytest.mark.parametrize("episodes", [None, [3], [0, 2, 4]])
def test_the_rows_are_those_of_lerobot_in_few_pieces(video_root, episodes):
    own = load_tables(video_root / "data", episodes=episodes)
    assert len(own) == sum(LENGTHS if episodes is None else [LENGTHS[e] for e in episodes])
    stock = io_utils.load_nested_dataset(video_root / "data", episodes=episodes)
    assert own.features == stock.features and own.with_format("arrow")[:] == stock.with_format("arrow")[:]
    assert len(own.data.to_batches()) == 1 and (episodes is not None or len(stock.data.to_batches()) >= len(LENGTHS))


def test_pieces_are_small_where_rows_are_large(image_root, monkeypatch):
    monkeypatch.setattr(lerobot_tables, "_PIECE_BYTES", 4096)
    features = dataset_reader.get_hf_features_from_features(LeRobotDataset("toy/image", root=image_root).meta.features)
    own, stock = (load(image_root / "data", features) for load in (load_tables, io_utils.load_nested_dataset))
    assert len(own.data.to_batches()) > 5 and own.with_format("arrow")[:] == stock.with_format("arrow")[:]


def test_episodes_come_without_the_statistics_that_lerobot_drops(video_root):
    own, stock = load_tables(video_root / "meta/episodes"), io_utils.load_episodes(video_root)
    assert own.column_names == stock.column_names and own.with_format("arrow")[:] == stock.with_format("arrow")[:]
    assert any(
        name.startswith("stats/") for name in io_utils.load_nested_dataset(video_root / "meta/episodes").features
    )


def test_samples_are_the_same_through_both(video_root, stock_again):
    options = {
        "root": video_root,
        "episodes": [1, 3],
        "delta_timestamps": {"action": [0.0, 0.1, 0.2]},
        "return_uint8": True,
    }
    read_compactly()
    own = LeRobotDataset("toy/video", **options)
    stock_again()
    stock = LeRobotDataset("toy/video", **options)
    assert own.meta.episodes.column_names == stock.meta.episodes.column_names
    assert len(own.hf_dataset.data.to_batches()) == 1 < len(stock.hf_dataset.data.to_batches())
    for number in (0, 7, len(stock) - 1):
        mine, theirs = own.reader.hf_dataset[number], stock.reader.hf_dataset[number]
        assert mine.keys() == theirs.keys() and all((mine[k] == theirs[k]).all() for k in mine)
    assert isinstance(own.hf_dataset.data.table, pa.Table)


def test_what_is_not_there_is_seen_as_lerobot_sees_it(video_root, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(video_root, root)
    reader = LeRobotDataset("toy/video", root=root).reader
    stock = type(reader)._check_cached_episodes_sufficient
    assert all_there(reader) and stock(reader)
    reader.hf_dataset = load_tables(root / "data", episodes=[0, 1, 3, 4])
    assert not all_there(reader) and not stock(reader)
    reader.episodes = [0, 1, 3]
    assert all_there(reader) and stock(reader)
    next((root / "videos").rglob("*.mp4")).unlink()
    assert not all_there(reader) and not stock(reader)
    reader.hf_dataset = None
    assert not all_there(reader)


def test_no_tables_are_told_as_lerobot_tells_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tables"):
        load_tables(tmp_path)
