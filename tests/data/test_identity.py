"""Identity of a dataset: it changes with every frame, row and label, and with nothing else."""

import json
import os
import shutil

import numpy as np
import pytest
from edits import copy_of, edit_column, edit_info, episode_table, split_tables, tables
from small_datasets import LENGTHS, TOP

from hlrp.data import FrameWindows, WindowSource, read_dataset, read_episodes
from hlrp.data.columns import read_column, read_tasks
from hlrp.data.frame_store import FrameStore
from hlrp.data.identity import fingerprint, first_fingerprint, is_of_older_rules
from hlrp.errors import UserError


@pytest.fixture
def root(video_root, tmp_path):
    return copy_of(video_root, tmp_path / "data" / "video")


def mark(root):
    return read_dataset(None, root).fingerprint()


def test_a_corrected_time_of_the_same_file_size_is_other_data(root):
    path = episode_table(root)
    edit_column(path, f"videos/{TOP}/from_timestamp", lambda v: v + 1e-9)
    before, size = mark(root), path.stat().st_size
    info = read_dataset(None, root)
    begins = read_episodes(info).video[TOP][1].copy()
    store = FrameStore(read_episodes(info), TOP, where="disk", root=root.parent / "store")
    edit_column(path, f"videos/{TOP}/from_timestamp", lambda v: v + 0.1 * (v > 2))
    assert path.stat().st_size == size
    assert mark(root) != before
    # The same process sees the corrected table, and does not look for its frames where the old ones were kept.
    again = read_episodes(read_dataset(None, root))
    assert again.video[TOP][1] == pytest.approx(begins + 0.1 * (begins > 2))
    assert FrameStore(again, TOP, where="disk", root=root.parent / "store").folder != store.folder


def test_one_byte_changed_in_place_is_other_data(root):
    for path in (
        *tables(root),
        root / "meta" / "tasks.parquet",
        root / "meta" / "stats.json",
        *sorted((root / "videos").rglob("*.mp4")),
    ):
        before, stat = mark(root), path.stat()
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert mark(root) != before, path


def test_what_took_long_is_not_read_again_until_a_file_changes(root, tmp_path, monkeypatch):
    from hlrp.data import identity

    read: list[int] = []
    whole = identity._read_fingerprint
    monkeypatch.setattr(identity, "_read_fingerprint", lambda files: [read.append(len(files)), whole(files)][1])
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path / "cache"))
    before = mark(root)
    assert [mark(root), len(read), (tmp_path / "cache").exists()] == [before, 2, False], "that was quick"
    monkeypatch.setattr(identity, "_LONG_S", -1)
    monkeypatch.setattr(identity, "_RECENT_S", 3600)
    assert [mark(root), mark(root), len(read)] == [before, before, 4], "files that have just been written may change"
    monkeypatch.setattr(identity, "_RECENT_S", 0)
    assert [mark(root), mark(root), mark(root), len(read)] == [before, before, before, 5]
    edit_column(tables(root)[0], "timestamp", lambda v: v + 1)
    changed = mark(root)
    assert changed != before and [mark(root), len(read)] == [changed, 6]
    for kept in (tmp_path / "cache/fingerprints").iterdir():
        kept.write_text("{")
    assert [mark(root), len(read)] == [changed, 7]


def test_a_copy_is_the_same_data_whatever_its_times_and_place(root, tmp_path):
    before = mark(root)
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved, copy_function=shutil.copyfile)
    for path in moved.rglob("*"):
        os.utime(path, (1, 1))
    assert mark(moved) == before


def test_what_the_system_leaves_behind_is_no_data(root):
    before = mark(root)
    for name in (".DS_Store", "meta/.DS_Store", "meta/._info.json", f"videos/{TOP}/._x.mp4", "data/.cache/lock"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    assert mark(root) == before


@pytest.mark.parametrize("linked", ["data/chunk-000", "data", f"videos/{TOP}", "videos"])
def test_data_behind_a_link_are_read_and_count(root, tmp_path, linked):
    before, actions = mark(root), read_column(read_dataset(None, root), "action")
    kept = tmp_path / "kept"
    (root / linked).rename(kept)
    (root / linked).symlink_to(kept, target_is_directory=True)
    assert mark(root) == before
    assert np.array_equal(read_column(read_dataset(None, root), "action"), actions)
    file = next(kept.rglob("*.[mp]*[4t]"))
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    assert mark(root) != before


def test_a_link_to_a_parent_ends(root):
    before = mark(root)
    (root / "videos" / "loop").symlink_to(root / "videos", target_is_directory=True)
    assert mark(root) == before


def test_a_large_table_and_video_are_sampled_to_their_ends(tmp_path):
    for name, size in (("data/chunk-000/file-000.parquet", 9 << 20), ("videos/x/file-000.mp4", 2 << 20)):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        content = bytearray(size)
        path.write_bytes(content)
        before = fingerprint(tmp_path)
        for at in (0, size // 2 - 1, size - 1):
            content[at] = 1
            path.write_bytes(content)
            assert fingerprint(tmp_path) != before, (name, at)
            content[at] = 0


def test_old_fingerprints_are_recognised_by_their_own_rules(root):
    info, old = read_dataset(None, root), first_fingerprint(root)
    assert is_of_older_rules(old) and not is_of_older_rules(mark(root))
    assert len(old) == len(mark(root)) == 16
    assert info.known_as(old) and info.known_as(mark(root))
    assert not info.known_as("0123456789abcdef") and not info.known_as("2-0123456789abcd")
    (root / "meta" / "stats.json").write_text("{}")
    assert not info.known_as(old)


def test_a_changed_episode_table_is_read_again_though_info_is_the_same(root):
    info = read_dataset(None, root)
    assert set(read_episodes(info).task) == {"push", "pull"}
    edit_column(episode_table(root), "tasks", lambda v: np.array([["tidy"]] * len(v)))
    assert set(read_episodes(info).task) == {"tidy"}


def test_tasks_are_looked_up_by_their_number_not_by_their_row(root):
    import pandas as pd

    path = root / "meta" / "tasks.parquet"
    frame = pd.read_parquet(path)
    frame.iloc[::-1].to_parquet(path)
    assert read_tasks(read_dataset(None, root)) == frame.sort_values("task_index").index.tolist() == ["push", "pull"]


def test_only_tables_that_lerobot_reads_are_read(root):
    info = read_dataset(None, root)
    (table,) = tables(root)
    for stray in ("data/file-000.parquet", "data/a/b/file-000.parquet", "data/chunk-000/._file-000.parquet"):
        (root / stray).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(table, root / stray)
    assert info.tables == [table]
    assert len(read_column(info, "action")) == sum(LENGTHS)


def test_a_table_that_lies_there_twice_is_refused(root):
    (table,) = tables(root)
    shutil.copy(table, table.with_name("file-000 (copy).parquet"))
    with pytest.raises(UserError, match="90 rows of the tables have the `index` of another row"):
        read_column(read_dataset(None, root), "action")


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_a_part_of_a_dataset_gives_the_windows_of_the_whole(root, cache):
    whole = FrameWindows([WindowSource(read_dataset(None, root), [0, 1], [TOP])], offset_seconds=0.3, with_actions=True)
    wanted = whole.__getitems__(list(range(len(whole))))
    split_tables(root, [[0, 1], [2, 3, 4]])
    (root / "data" / "chunk-000" / "file-001.parquet").unlink()
    for video in (root / "videos").glob("*/chunk-000/file-001.mp4"):
        video.unlink()
    info = read_dataset(None, root)
    part = FrameWindows([WindowSource(info, [0, 1], [TOP])], offset_seconds=0.3, with_actions=True, cache=cache)
    found = part.__getitems__(list(range(len(part))))
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert value.equal(found[key]), key
    with pytest.raises(UserError, match="the tables hold 34 of the 90 frames"):
        read_column(info, "action")


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_a_part_of_a_dataset_gives_the_samples_of_the_whole_to_policies(root, cache):
    from lerobot.policies.act.configuration_act import ACTConfig

    from hlrp.data.lerobot_data_module import LeRobotDataModule

    def samples():
        data = LeRobotDataModule(root=root, episodes=[0, 1], cache=cache, num_workers=0, seed=2, video_backend="pyav")
        data.for_policy(ACTConfig(device="cpu", chunk_size=4, n_action_steps=4))
        return list(data.train_dataloader())

    whole = samples()
    split_tables(root, [[0, 1], [2, 3, 4]])
    for path in sorted(root.rglob("file-001.*")):
        path.unlink()
    part = samples()
    assert len(part) == len(whole) == 5
    for a, b in zip(whole, part, strict=True):
        assert a.keys() == b.keys()
        assert all(value.equal(b[key]) if hasattr(value, "equal") else value == b[key] for key, value in a.items())


def test_a_folder_that_is_no_dataset_any_more_says_what_its_metadata_lack(root):
    for change, said in (
        (lambda c: c.update(fps=0), "fps"),
        (lambda c: c.update(total_frames="many"), "total_frames"),
        (lambda c: c["features"]["action"].pop("shape"), "action"),
        (lambda c: c["features"].update(action={"dtype": "float32", "shape": [0]}), "action"),
    ):
        info = root / "meta" / "info.json"
        before = info.read_text()
        edit_info(root, change)
        with pytest.raises(UserError, match=said):
            read_dataset(None, root)
        info.write_text(json.dumps(json.loads(before)))
