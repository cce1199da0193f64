"""Faults of a dataset's tables, statistics and names are found and named before anything is trained on it."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from edits import copy_of, edit_column, edit_info, edit_stats, edit_table, episode_table, split_tables, tables
from small_datasets import LENGTHS, TOP, WRIST

from hlrp.data import FrameWindows, WindowSource, read_dataset
from hlrp.data.checks import dataset_problems, refuse_fatal
from hlrp.data.policy_checks import policy_problems
from hlrp.errors import UserError


@pytest.fixture
def root(video_root, tmp_path):
    return copy_of(video_root, tmp_path / "video")


def problems(root, **options):
    return list(dataset_problems(read_dataset(None, root), **options))


def fatal(root, **options):
    return [p for p in problems(root, **options) if p.fatal]


def only(root, **options):
    found = fatal(root, **options)
    assert len(found) == 1, found
    return found[0]


def warned(root, **options):
    return [p.message for p in problems(root, **options) if not p.fatal]


def test_sound_data_have_no_faults_and_a_still_state_is_a_warning(root, image_root):
    assert fatal(root) == []
    assert warned(root) == ["'observation.state' never changes in 2 of its 2 dimensions (0, 1)"]
    assert fatal(image_root) == []


def test_real_data_are_checked_in_no_time(g1_root):
    import time

    problems(g1_root)
    began = time.monotonic()
    assert problems(g1_root) == []
    assert time.monotonic() - began < 1


def nan_at(frame, dimension=1, value=np.nan):
    def change(values):
        values[frame, dimension] = value

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_with_column_episode_and_frame(root, value):
    edit_column(tables(root)[0], "action", nan_at(LENGTHS[0] + 4, value=value))
    found = only(root)
    assert f"'action' is {value} in dimension 1 at frame 4 of episode 1" in found.message
    assert found.where.endswith("column action, episode 1, frame 4")
    # Episodes without it, and columns that are not used, do not mind.
    assert fatal(root, episodes=[0, 2]) == []
    assert fatal(root, used=["observation.state"]) == []
    assert any("'action' is" in message for message in warned(root, used=[]))


def test_a_nan_spoils_the_windows_that_hold_it_and_no_others(root):
    edit_column(tables(root)[0], "action", np.ones_like)
    edit_column(tables(root)[0], "action", nan_at(4, 0))
    source = WindowSource(read_dataset(None, root), cameras=[TOP])
    windows = FrameWindows([source], offset_seconds=0.2, with_actions=True)
    batch = windows.__getitems__(list(range(len(windows))))
    sums, valid = batch["action_sum"][:, 0].numpy(), batch["valid"][:, 0].numpy()
    assert np.flatnonzero(np.isnan(sums[:, 0])).tolist() == [3, 4]
    assert (sums[valid][:, 1:] == 2).all()
    assert (np.delete(sums[:, 0], [3, 4])[np.delete(valid, [3, 4])] == 2).all()


def test_one_huge_action_costs_other_episodes_no_digits(root):
    actions = []
    edit_column(tables(root)[0], "action", nan_at(2, 0, 1e25))
    edit_column(tables(root)[0], "action", lambda v: actions.append(v.copy()))
    source = WindowSource(read_dataset(None, root), cameras=[TOP])
    batch = FrameWindows([source], offset_seconds=0.1, with_actions=True).__getitems__(list(range(13, 33)))
    assert np.allclose(batch["action_sum"][:, 0].numpy(), actions[0][13:33], atol=1e-6)


def test_rows_out_of_order_are_refused(root):
    order = np.arange(sum(LENGTHS))
    order[[20, 21]] = [21, 20]
    edit_table(tables(root)[0], lambda t: t.take(pa.array(order)))
    assert "frame 20 comes out of order: the row before it is frame 21" in only(root).message


def test_a_row_that_is_missing_or_there_twice_is_refused(root):
    edit_table(tables(root)[0], lambda t: pa.concat_tables([t.slice(0, 15), t.slice(16)]))
    assert "the tables lack 1 of the 90 frames" in only(root).message
    assert "of episodes 1" in only(root).message
    assert fatal(root, episodes=[0, 2]) == []
    edit_table(tables(root)[0], lambda t: pa.concat_tables([t.slice(0, 15), t.slice(14)]))
    assert "frame 14 comes again" in fatal(root)[0].message


@pytest.mark.parametrize(("name", "wrong", "right"), [("episode_index", 3, 1), ("frame_index", 3, 4)])
def test_a_row_that_belongs_elsewhere_is_refused(root, name, wrong, right):
    def change(values):
        values[LENGTHS[0] + 4] = wrong

    edit_column(tables(root)[0], name, change)
    assert f"{name} is {wrong}, by the episode table it is {right}" in only(root).message


def test_an_episode_table_that_disagrees_with_info_is_refused(root):
    edit_info(root, lambda c: c.update(total_frames=80))
    assert "90 frames) does not agree with meta/info.json (5 episodes, 80 frames)" in only(root).message


def test_a_task_that_does_not_exist_is_refused(root):
    edit_column(tables(root)[0], "task_index", lambda v: np.where(np.arange(len(v)) == 40, 7, v))
    found = only(root)
    assert "task_index is 7" in found.message
    assert "episode 2, frame 6" in found.where


def test_tasks_out_of_the_order_of_their_numbers_are_a_warning(root):
    edit_table(root / "meta" / "tasks.parquet", lambda t: t.take(pa.array([1, 0])))
    assert fatal(root) == []
    assert "not in the order of task_index ([1, 0])" in warned(root)[0]


def test_missing_files_are_named(root):
    (root / "meta" / "tasks.parquet").unlink()
    assert only(root).where.endswith("meta/tasks.parquet")
    split_tables(root, [[0, 1], [2, 3, 4]])
    gone = root / "videos" / WRIST / "chunk-000" / "file-001.mp4"
    gone.unlink()
    found = [p for p in fatal(root) if "tasks" not in p.where]
    assert [(p.message, p.where) for p in found] == [("missing file: it holds episodes 2, 3, 4", str(gone))]
    table = root / "data" / "chunk-000" / "file-001.parquet"
    table.unlink()
    assert {p.where for p in fatal(root)} >= {str(gone), str(table)}
    # What is not used need not be there.
    assert [p.where for p in fatal(root, episodes=[0, 1])] == [str(root / "meta" / "tasks.parquet")]
    assert str(gone) not in {p.where for p in fatal(root, cameras=[TOP], by_lerobot=False)}
    assert str(gone) in {p.where for p in fatal(root, cameras=[TOP])}
    assert problems(root, fetchable=True) == []


def test_files_that_lerobot_would_read_as_tables_are_refused(root):
    stray = root / "data" / "chunk-000" / "._file-000.parquet"
    stray.write_bytes(b"Mac OS X")
    assert only(root).where == str(stray)
    stray.unlink()
    shutil.copy(tables(root)[0], root / "data" / "chunk-000" / "old.parquet")
    assert "a table that no episode lies in" in only(root).message


def test_declared_and_real_shapes_and_types(root):
    edit_info(root, lambda c: c["features"]["action"].update(shape=[4]))
    found = only(root)
    assert "cells hold 3 numbers, meta/info.json says [4]" in found.message
    assert found.where.endswith("column action")
    edit_info(root, lambda c: c["features"]["action"].update(shape=[3], dtype="string"))
    assert "declares 'action' as string, it holds float" in only(root).message
    edit_info(root, lambda c: c["features"]["action"].update(dtype="float64"))
    assert fatal(root) == []
    edit_info(root, lambda c: c["features"].update(reward={"dtype": "float32", "shape": [1], "names": None}))
    assert "declares 'reward', the table has no such column" in only(root).message


def test_a_column_that_is_not_declared_is_refused_where_lerobot_reads(root):
    edit_table(tables(root)[0], lambda t: t.append_column("extra", pa.array(range(len(t)))))
    assert "a column 'extra'" in only(root).message
    assert fatal(root, by_lerobot=False) == []


def test_whole_numbers_that_are_declared_as_floats_are_read_as_floats(root):
    from hlrp.data.columns import read_columns

    table = tables(root)[0]
    edit_table(table, lambda t: t.append_column("reward", pa.array(range(len(t)))))
    edit_info(root, lambda c: c["features"].update(reward={"dtype": "float32", "shape": [1], "names": None}))
    assert fatal(root) == []
    assert read_columns(read_dataset(None, root), ["reward"])["reward"].dtype == np.float32


def test_times_that_are_not_those_of_the_fps_are_a_warning(root):
    edit_column(tables(root)[0], "timestamp", lambda v: v * 2)
    assert [p.where.endswith(".mp4") for p in fatal(root)] == [True, True], "the videos end before"
    assert fatal(root, cameras=[]) == []
    assert "comes 0.2000 s after the one before it, at 10 fps it is 0.1000 s" in warned(root)[0]
    edit_column(tables(root)[0], "timestamp", lambda v: np.where(np.arange(len(v)) == 3, np.nan, v))
    assert "the time of a frame is nan" in fatal(root)[0].message


def test_statistics_that_are_not_there_or_torn(root):
    path = root / "meta" / "stats.json"
    text = path.read_text()
    edit_stats(root, lambda c: c.pop("action"))
    assert only(root).where == f"{path}, feature action"
    assert "no statistics of 'action'" in only(root).message
    path.write_text(text[: len(text) // 2])
    assert "meta/stats.json cannot be read" in fatal(root)[0].message
    path.unlink()
    assert "the dataset has no meta/stats.json" in fatal(root)[0].message
    assert "recompute_stats" in fatal(root)[0].fix
    assert fatal(root, needs_statistics=False) == []


@pytest.mark.parametrize("key", ["mean", "std", "min", "max", "q01", "q99"])
def test_statistics_that_are_not_finite_are_named(root, key):
    edit_stats(root, lambda c: c["action"][key].__setitem__(1, float("nan")))
    assert f"statistics of 'action' are not finite numbers: {key}" in only(root).message


def test_statistics_of_other_data(root):
    edit_stats(root, lambda c: c["action"].update(std=[1e-9, 1, 1]))
    found = only(root)
    assert "the statistics of 'action' are not of these data: dimension 0 reaches" in found.message
    edit_stats(root, lambda c: c["action"].update(std=[0.5, 0.5]))
    assert "'std' of 'action' has 2 numbers, meta/info.json says [3]" in only(root).message
    edit_stats(root, lambda c: c["action"].update(std=[0.5, 0.5, 0.5], min=[0.2] * 3, max=[0.2] * 3))
    assert "'min' and 'max' of 'action' are 0.2 and 0.2" in only(root).message


def test_a_spread_near_zero_and_equal_quantiles_are_named(root):
    rng = np.random.default_rng(0)

    def change(values):
        values[:, 0] = 1
        values[7, 0] = 2
        values[:, 1] = 1 + 2e-7 * rng.integers(0, 2, len(values))

    edit_column(tables(root)[0], "action", change)
    both = {"mean": [1.0, 1.0, 0.0], "std": [0.105, 1e-7, 0.6], "min": [1, 1, -1], "max": [2, 1.0000002, 1]}
    edit_stats(root, lambda c: c["action"].update(both, q01=[1, 1, -1], q99=[1, 1.0000002, 1]))
    assert fatal(root) == []
    said = "\n".join(warned(root))
    assert "'action' hardly changes in dimension 1 (std 1e-07" in said
    assert "'q01' and 'q99' of 'action' are 1 and 1 in dimension 0, whose numbers go from 1 to 2" in said


def test_names_of_pictures_that_lerobot_cannot_use(root):
    info = read_dataset(None, root)
    assert list(policy_problems(info, "act")) == []
    edit_info(root, lambda c: c["features"][TOP].update(names=None))
    (found,) = policy_problems(read_dataset(None, root), "act")
    assert "'names': None" in found.message
    assert found.where.endswith(f"info.json, feature {TOP}")
    assert found.fix == 'write "names": ["height", "width", "channels"] there'
    assert list(policy_problems(read_dataset(None, root), "act", [WRIST])) == []

    def rename(content):
        for name in ("image", "wrist_image"):
            content["features"][name] = content["features"][WRIST]
        for name in (TOP, WRIST):
            del content["features"][name]

    edit_info(root, rename)
    (found,) = policy_problems(read_dataset(None, root), "act")
    assert "'observation.images.'" in found.message
    renamed = "image=observation.images.image wrist_image=observation.images.wrist_image"
    assert f"hlrp data rename {root} {renamed} --output {root}_renamed" in found.fix


def test_a_policy_that_reads_a_state_needs_one(root):
    edit_info(root, lambda c: c["features"].pop("observation.state"))
    info = read_dataset(None, root)
    (found,) = policy_problems(info, "act")
    assert "policy 'act' reads 'observation.state'" in found.message
    assert list(policy_problems(info, "hlrp_vla_direct")) == []


def test_the_first_fatal_fault_is_the_error_and_the_others_are_counted(root):
    info = read_dataset(None, root)
    assert refuse_fatal(iter(problems(root)), info)[0].startswith("'observation.state' never changes")
    edit_column(tables(root)[0], "action", nan_at(4))
    (root / "meta" / "stats.json").unlink()
    with pytest.raises(UserError, match=r"'action' is nan(.|\n)*hlrp data check .*shows 2 more"):
        refuse_fatal(iter(problems(root)), info)


def test_an_offset_longer_than_every_episode_says_so(root):
    source = WindowSource(read_dataset(None, root), [0, 2], [TOP])
    with pytest.raises(UserError, match=r"longer than 2 s.* the 2 episodes have 9 to 13 frames, .* lie 20 apart"):
        FrameWindows([source], offset_seconds=2, drop_invalid=True)


def test_an_episode_of_another_tasks_table_is_a_warning(root):
    edit_column(episode_table(root), "tasks", lambda v: np.array([["tidy"]] * len(v)))
    assert any("episode 0 has the task 'tidy'" in message for message in warned(root))
    assert json.loads((root / "meta" / "info.json").read_text())["total_tasks"] == 2
