"""The frame store: decoded once, the same bytes after any kill, shared, limited."""

import pickle
import threading
import time

import numpy as np
import pytest
from interruptions import killed_before_write
from small_datasets import LENGTHS, TOP, WRIST

from hlrp.data import (
    FrameStore,
    FrameWindows,
    WindowSource,
    frame_store,
    read_dataset,
    read_episodes,
)
from hlrp.errors import UserError


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_frames_are_those_of_the_video(table, pixels, tmp_path, monkeypatch, where):
    # Episodes that are decoded in several chunks.
    monkeypatch.setitem(frame_store.SequentialDecoder.frames.__kwdefaults__, "chunk", 7)
    said = []
    store = FrameStore(table, TOP, where=where, root=tmp_path)
    store.prepare(announce=said.append)
    picked = np.asarray([70, 3, 3, 41])
    assert np.array_equal(store.read(picked), pixels[picked])
    assert np.array_equal(store.read(np.arange(len(pixels))), pixels)
    assert len(said) == 1 and "90 frames" in said[0] and "48x64" in said[0] and "MiB" in said[0]
    store.prepare(announce=said.append)
    assert len(said) == 1  # nothing is decoded twice


def test_another_process_finds_the_frames_without_decoding(table, pixels, tmp_path, monkeypatch):
    FrameStore(table, TOP, root=tmp_path).prepare()
    monkeypatch.setattr(frame_store.SequentialDecoder, "frames", None)
    again = FrameStore(table, TOP, root=tmp_path)
    again.prepare()
    assert np.array_equal(again.read(np.arange(90)), pixels)
    copy = pickle.loads(pickle.dumps(again))
    assert len(pickle.dumps(again)) < pixels.nbytes / 4
    assert np.array_equal(copy.read(np.arange(90)), pixels)


def test_only_the_chosen_episodes_are_decoded(table, pixels, tmp_path):
    store = FrameStore(table, TOP, root=tmp_path)
    store.prepare([1, 3])
    assert store.missing() == [0, 2, 4]
    assert store.bytes_to_make([0, 1]) == LENGTHS[0] * 3 * 48 * 64
    rows = table.frame_indices([1, 3])
    assert np.array_equal(store.read(rows), pixels[rows])
    store.prepare([0, 1])
    assert store.missing() == [2, 4]
    assert np.array_equal(store.read(np.arange(34)), pixels[:34])


def test_stores_of_other_frames_are_kept_apart(table, image_root, tmp_path):
    other = read_episodes(read_dataset(None, image_root))
    stores = [FrameStore(table, TOP), FrameStore(table, WRIST), FrameStore(table, TOP, 24)]
    stores.append(FrameStore(other, "observation.image"))
    assert len({s.key for s in stores}) == 4
    assert FrameStore(table, TOP, (24, 24)).key == stores[2].key


def test_killed_at_any_moment_it_ends_with_the_same_bytes(table, tmp_path, monkeypatch):
    monkeypatch.setattr(frame_store, "_JOB_FRAMES", 1)
    monkeypatch.setattr(frame_store, "_FLUSH_BYTES", 1)
    whole = FrameStore(table, TOP, root=tmp_path / "whole")
    whole.prepare()
    missing = []
    for number in range(1, 100):
        store = FrameStore(table, TOP, root=tmp_path / str(number))
        killed = killed_before_write(number, store.prepare)
        missing.append(len(store.missing()))
        store.prepare()
        assert content(store.folder) == content(whole.folder)
        if not killed:
            break
    assert missing[0] == len(LENGTHS) and missing[-1] == 0
    assert set(range(1, len(LENGTHS))) <= set(missing), "kills came after each of the episodes"


def test_a_second_process_waits_and_decodes_nothing(table, tmp_path):
    store, other = (FrameStore(table, TOP, root=tmp_path) for _ in range(2))
    said, begin, go_on = [], threading.Event(), threading.Event()

    def hold(done, total):
        begin.set()
        go_on.wait(20)

    first = threading.Thread(target=lambda: store.prepare(progress=hold))
    first.start()
    assert begin.wait(60)
    second = threading.Thread(target=lambda: other.prepare(announce=said.append))
    second.start()
    while not said and second.is_alive():
        time.sleep(0.01)
    go_on.set()
    first.join()
    second.join()
    assert len(said) == 1 and "waiting" in said[0]
    assert not other.missing()


def test_a_limit_is_kept(table, tmp_path):
    source = [WindowSource(table.info, cameras=[TOP, WRIST])]
    need = 90 * 2 * 48 * 64 * 3 / 1e9
    with pytest.raises(UserError, match="more than the limit"):
        FrameWindows(source, offset_seconds=0.1, cache="ram", cache_root=tmp_path, cache_limit_gb=need * 0.9)
    assert not list(tmp_path.iterdir())
    FrameWindows(source, offset_seconds=0.1, cache="disk", cache_root=tmp_path, cache_limit_gb=need * 1.1)
    FrameWindows(source, offset_seconds=0.1, cache="disk", cache_root=tmp_path, cache_limit_gb=need * 0.1)


def test_too_little_space_is_told_before_the_work(table, tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(frame_store.shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match="disk space"):
        FrameStore(table, TOP, root=tmp_path).prepare()
