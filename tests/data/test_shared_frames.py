"""Frames in memory: once for all processes of the machine, and gone with the last of them, however it ends."""

import gc
import os
import pickle
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from small_datasets import LENGTHS, TOP, WRIST
from two_processes import in_processes

from hlrp.data import FrameStore
from hlrp.errors import UserError

FRAMES = sum(LENGTHS)
BYTES = FRAMES * 3 * 48 * 64
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="elsewhere each process has its own")


def store_of(table, root, episodes=None, announce=lambda _: None, **options):
    store = FrameStore(table, TOP, where="ram", root=root)
    store.prepare(episodes, announce=announce, **options)
    return store


def wait_for(path, count=1):
    end = time.monotonic() + 300
    while len([*path.parent.glob(path.name)]) < count:
        assert time.monotonic() < end, path
        time.sleep(0.01)


def in_memory():
    """KiB of the stores that are mapped here: all that is there, and this process's share of it."""
    found = {"Rss": 0, "Pss": 0}
    mapped = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            mapped = "/memfd:hlrp-" in line
        name, _, value = line.partition(":")
        if mapped and name in found:
            found[name] += int(value.split()[0])
    return found["Rss"], found["Pss"]


@contextmanager
def living(table, root, flag):
    """A process that has the frames until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            kept = store_of(table, root)
            flag.touch()
            time.sleep(600)
            kept.read(np.arange(1))
        finally:
            os._exit(1)
    try:
        wait_for(flag)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_two_processes_hold_the_frames_once(table, pixels, tmp_path):
    def work():
        said = []
        store = store_of(table, tmp_path, announce=said.append)
        assert np.array_equal(store.read(np.arange(FRAMES)), pixels)
        (tmp_path / f"read-{os.getpid()}").write_text("\n".join(said))
        wait_for(tmp_path / "read-*", 2)
        all_of, share = in_memory()
        (tmp_path / f"measured-{os.getpid()}").write_text(f"{all_of} {share}")
        wait_for(tmp_path / "measured-*", 2)

    in_processes(2, work)
    for path in tmp_path.glob("measured-*"):
        all_of, share = (int(number) for number in path.read_text().split())
        assert BYTES / 1024 <= all_of < 1.1 * BYTES / 1024, "mapped once"
        assert share == pytest.approx(all_of / 2, abs=8), "and counted for each as a half"
    said = [path.read_text() for path in tmp_path.glob("read-*")]
    assert [text.count("MiB in memory") for text in sorted(said, key=len)] in ([0, 1], [1, 0])


def test_what_one_has_not_decoded_another_adds(table, pixels, tmp_path):
    first = store_of(table, tmp_path, [0, 1])
    said = []
    second = store_of(table, tmp_path, [1, 3], said.append)
    assert len(said) == 1 and f"decoding {LENGTHS[3]} frames" in said[0]
    assert first.missing() == second.missing() == [2, 4]
    rows = table.frame_indices([0, 1, 3])
    assert np.array_equal(first.read(rows), pixels[rows]) and np.array_equal(second.read(rows), pixels[rows])
    other = FrameStore(table, WRIST, where="ram", root=tmp_path)
    other.prepare(announce=lambda _: None)
    assert not np.array_equal(other.read(rows), pixels[rows]), "other frames are another store"
    copy = pickle.loads(pickle.dumps(second))
    assert len(pickle.dumps(second)) < BYTES / 4
    assert np.array_equal(copy.read(rows), pixels[rows]) and copy.missing() == [2, 4]


def test_it_outlives_who_made_it_and_is_gone_with_the_last_one_that_was_killed(table, pixels, tmp_path):
    everything, said = np.arange(FRAMES), []
    with living(table, tmp_path / "cache", tmp_path / "flag"):
        mine = store_of(table, tmp_path / "cache", announce=said.append)
    assert np.array_equal(mine.read(everything), pixels) and said == []
    third = store_of(table, tmp_path / "cache", announce=said.append)
    assert np.array_equal(third.read(everything), pixels) and said == [], "it is found with those who are left"
    packed = pickle.dumps(third)
    del mine, third
    gc.collect()
    with living(table, tmp_path / "cache", tmp_path / "flag 2"):
        pass
    assert not [*Path("/dev/shm").glob("*hlrp*")] and in_memory() == (0, 0)
    assert all(path.stat().st_size < 1000 for path in tmp_path.rglob("*") if path.is_file())
    again = pickle.loads(packed)
    again.prepare(announce=said.append)
    assert np.array_equal(again.read(everything), pixels) and len(said) == 1 and "decoding 90 frames" in said[0]


def test_one_who_is_killed_while_it_decodes_leaves_the_others_to_it(table, pixels, tmp_path):
    child = os.fork()
    if child == 0:
        try:
            store_of(table, tmp_path, progress=lambda done, total: (tmp_path / "begun").touch() or time.sleep(600))
        finally:
            os._exit(1)
    wait_for(tmp_path / "begun")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert np.array_equal(store_of(table, tmp_path).read(np.arange(FRAMES)), pixels)


def test_without_shared_memory_or_a_place_to_meet_each_has_its_own(table, pixels, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    said = []
    store = store_of(table, tmp_path / "file", announce=said.append)
    assert "this process's own" in said[0] and np.array_equal(store.read(np.arange(FRAMES)), pixels)
    monkeypatch.delattr(os, "memfd_create")
    store = store_of(table, tmp_path / "cache", [0, 1])
    store.prepare([4], announce=said.append)
    rows = table.frame_indices([0, 1, 4])
    assert np.array_equal(store.read(rows), pixels[rows]) and in_memory() == (0, 0)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).read(rows), pixels[rows])


def test_too_little_memory_is_told_before_the_work(table, tmp_path, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(UserError, match="GiB of memory"):
        store_of(table, tmp_path)
