"""What is kept of every episode and frame as arrays gives what lists and index arrays gave."""

import gc
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hlrp.data import compact, read_dataset
from hlrp.data.columns import read_column
from hlrp.data.compact import FewValues, FrameRanges, zeros
from hlrp.data.lerobot_reader import RowsOfFrames


def test_ranges_are_the_frames_that_they_stand_for():
    rng = np.random.default_rng(0)
    bounds = np.sort(rng.choice(1000, 60, replace=False)).reshape(-1, 2)
    begins, ends = np.append(bounds[:, 0], [1000, 1010, 1020]), np.append(bounds[:, 1], [1010, 1010, 1021])
    frames = np.concatenate([np.arange(b, e) for b, e in zip(begins, ends, strict=True)])
    ranges = FrameRanges(begins, ends)
    assert len(ranges) == len(frames) and np.array_equal(np.asarray(ranges), frames)
    places = rng.integers(0, len(frames), 500)
    assert np.array_equal(ranges[places], frames[places])
    assert ranges[3] == frames[3] and np.array_equal(ranges[5:17], frames[5:17])
    assert np.array_equal(np.concatenate([*ranges.blocks(7)]), frames)
    assert np.array_equal(np.flatnonzero(ranges.mark(np.zeros(1100, bool))), frames)
    inner = [(int(begins[3]), int(ends[5])), (int(begins[2]) + 1, int(ends[2]) - 1)]
    for first, end in [(0, 1100), (100, 101), (7, 7), *inner]:
        some = frames[(frames >= first) & (frames < end)]
        assert np.array_equal(np.asarray(ranges.within(first, end)), some)
        assert np.array_equal(np.asarray(ranges.missing(first, end)), np.setdiff1d(np.arange(first, end), some))
    assert len(FrameRanges(np.array([0, 10]), np.array([10, 20])).begins) == 1, "neighbours are one range"
    empty = FrameRanges(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert len(empty) == 0 and not [*empty.blocks(4)] and np.asarray(empty).shape == (0,)


def test_few_values_are_a_sequence():
    values = FewValues(["a", "b", "c"], np.array([0, 0, 2, 1]))
    assert [*values] == ["a", "a", "c", "b"] == [values[i] for i in range(4)]
    assert values[-1] == "b" and [*values[1:3]] == ["a", "c"] and "c" in values


def test_many_zeros_lie_in_a_file_without_a_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path))
    monkeypatch.setattr(compact, "_IN_MEMORY", 1000)
    assert not (tmp_path / "rows").exists() and zeros((10, 5), np.int16).sum() == 0
    gc.collect()
    before = len([*Path("/proc/self/fd").iterdir()])
    many = zeros((100, 5), np.float32)
    many[7] = 3
    assert many.sum() == 15 and [*(tmp_path / "rows").iterdir()] == []
    assert len([*Path("/proc/self/fd").iterdir()]) == before + 1
    del many
    gc.collect()
    assert len([*Path("/proc/self/fd").iterdir()]) == before


@pytest.mark.parametrize("frames", [[3, 4, 5, 9, 10, 2], [*range(8)], [7], []])
def test_rows_of_frames_are_those_of_a_dictionary(frames):
    chunks = pa.chunked_array([pa.array(frames[:2], pa.int64()), pa.array(frames[2:], pa.int64())])
    rows = RowsOfFrames(chunks)
    assert dict(rows) == {frame: row for row, frame in enumerate(frames)}
    for absent in (-1, 6, 100):
        if absent not in frames:
            with pytest.raises(KeyError):
                rows[absent]


def test_one_table_of_contents_at_a_time(toy_root, tmp_path, monkeypatch):
    """Of a file of ten thousand row groups it takes 100 MiB."""
    root = Path(shutil.copytree(toy_root, tmp_path / "toy"))
    [table] = read_dataset(None, root).tables
    rows = pq.read_table(table)
    for number in range(3):
        pq.write_table(rows.take([*range(number, len(rows), 3)]), table.with_name(f"file-{number:03}.parquet"))
    alive: list[int] = []

    class Counted(pq.ParquetFile):
        def __init__(self, *args: object) -> None:
            alive.append(sum(type(o) is Counted for o in gc.get_objects()) - 1)
            super().__init__(*args)

    monkeypatch.setattr(pq, "ParquetFile", Counted)
    times = read_column(read_dataset(None, root), "timestamp")
    assert alive == [0, 0, 0]
    assert np.array_equal(times[:, 0], rows["timestamp"].to_numpy())
