"""A dataset whose features have other names: the same frames and rows, for LeRobot too."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_datasets import TOP, WRIST, camera, record

from hlrp.data import FrameWindows, WindowSource, read_dataset, read_episodes
from hlrp.data.checks import dataset_problems
from hlrp.data.columns import read_column
from hlrp.data.linked_copy import alone
from hlrp.data.policy_checks import policy_problems
from hlrp.data.renaming import rename_features
from hlrp.errors import UserError


@pytest.fixture(scope="module")
def unusual(tmp_path_factory):
    """A video camera `image` and a camera of pictures `wrist_image`."""
    features = {"image": camera("video", 32, 48), "wrist_image": camera("image", 32, 48)}
    features["action"] = {"dtype": "float32", "shape": (3,), "names": None}
    return record(tmp_path_factory.mktemp("data") / "unusual", features, 10, [5, 7], ["image", "wrist_image"])


def test_frames_and_rows_are_the_same_under_their_new_names(unusual, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    old = read_dataset(None, unusual)
    assert len(list(policy_problems(old, "act"))) == 1
    before = old.fingerprint()
    rename_features(old, {"image": TOP, "wrist_image": WRIST}, tmp_path / "new")
    assert old.fingerprint() == before
    new = read_dataset(None, tmp_path / "new")
    assert [p for p in [*dataset_problems(new), *policy_problems(new, "act")] if p.fatal] == []
    assert new.cameras == [TOP, WRIST]
    assert np.array_equal(read_column(new, "action"), read_column(old, "action"))
    for there, here in (("image", TOP), ("wrist_image", WRIST)):
        batches = [
            windows.__getitems__(list(range(len(windows))))
            for windows in (
                FrameWindows([WindowSource(info, cameras=[name])], offset_seconds=0.1)
                for info, name in ((old, there), (new, here))
            )
        ]
        assert batches[0]["frames"].equal(batches[1]["frames"])
    video = read_episodes(new).video[TOP][0][0]
    assert video.stat().st_ino == read_episodes(old).video["image"][0][0].stat().st_ino
    ours, theirs = (LeRobotDataset("x", root=r, video_backend="pyav")[6] for r in (tmp_path / "new", unusual))
    assert ours[TOP].equal(theirs["image"])
    assert ours[WRIST].equal(theirs["wrist_image"])


def test_names_that_cannot_be_given(unusual, tmp_path):
    info = read_dataset(None, unusual)
    for names, said in (
        ({"imag": TOP}, "no feature 'imag'"),
        ({"image": "action"}, "'action' is the name of another feature"),
        ({"image": "a/b"}, "'a/b' cannot be a name"),
        ({"image": TOP, "wrist_image": TOP}, "two features would have the same name"),
    ):
        with pytest.raises(UserError, match=said):
            rename_features(info, names, tmp_path / "new")
    with pytest.raises(UserError, match="lies inside the dataset"):
        rename_features(info, {"image": TOP}, unusual / "new")
    with pytest.raises(UserError, match="exists already"):
        rename_features(info, {"image": TOP}, tmp_path)
    assert not (tmp_path / "new").exists()


def test_the_lock_of_a_new_dataset_is_one_file_for_all_who_wait(tmp_path: Path) -> None:
    """Unlinked, it would be another file for who comes next than for who waits already: both would hold one."""
    lock = tmp_path / ".new.lock"
    with alone(tmp_path / "new"):
        waiting = lock.open()  # as another process has it
    with waiting, alone(tmp_path / "new"):
        assert os.path.samestat(os.fstat(waiting.fileno()), lock.stat())


@pytest.mark.parametrize("compression", ["NONE", "ZSTD"])
def test_tables_stay_compressed_as_they_are(compression, unusual, tmp_path):
    shutil.copytree(unusual, tmp_path / "old")
    table = next((tmp_path / "old/data").rglob("*.parquet"))
    rows = pq.read_table(table)
    pq.write_table(rows, table, compression=compression)
    rename_features(read_dataset(None, tmp_path / "old"), {"image": TOP, "wrist_image": WRIST}, tmp_path / "new")
    with pq.ParquetFile(table) as old, pq.ParquetFile(tmp_path / "new" / table.relative_to(tmp_path / "old")) as new:
        kinds = [file.metadata.row_group(0).column(0).compression for file in (old, new)]
        assert kinds == [{"NONE": "UNCOMPRESSED"}.get(compression, compression)] * 2
        assert new.read()["action"].equals(rows["action"])
