"""Frames of a dataset larger than its store: the same pixels, within the limit, whoever reads or is killed."""

import logging
import os
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from interruptions import killed_before_write
from small_datasets import LENGTHS, TOP, WRIST
from two_processes import in_processes

from hlrp.data import (
    FrameStore,
    FrameWindows,
    WindowSource,
    frame_shards,
)
from hlrp.data.frame_shards import EpisodeShards
from hlrp.errors import UserError

FRAME = 3 * 48 * 64
FRAMES = sum(LENGTHS)
ENDS = np.cumsum(LENGTHS)
TWO = 52 * FRAME
"""Of the episodes of 13, 21, 9, 17 and 30 frames: the longest two, not three."""


def shards_of(table, root, limit=TWO):
    shards = EpisodeShards(FrameStore(table, TOP, root=root), limit)
    shards.prepare(None, announce=lambda _: None)
    return shards


def kept(shards):
    return sorted(int(path.stem) for path in shards.folder.glob("*.u8"))


def used(shards):
    return sum(path.stat().st_size for path in shards.folder.iterdir())


def first_of(*episodes):
    return np.asarray([ENDS[episode] - LENGTHS[episode] for episode in episodes])


def test_frames_are_those_of_the_video_and_episodes_come_when_they_are_needed(table, pixels, tmp_path):
    shards = shards_of(table, tmp_path)
    assert kept(shards) == []
    picked = np.asarray([30, 3, 3, 12])
    assert np.array_equal(shards.read(picked), pixels[picked]) and kept(shards) == [0, 1]
    everything = np.random.default_rng(0).permutation(FRAMES)
    assert np.array_equal(shards.read(everything), pixels[everything])
    assert used(shards) <= TWO
    whole = np.frombuffer((shards.folder / f"{kept(shards)[0]}.u8").read_bytes(), np.uint8)
    assert np.array_equal(whole, pixels[ENDS[kept(shards)[0]] - LENGTHS[kept(shards)[0]] :].reshape(-1)[: len(whole)])


def test_what_was_not_used_for_longest_goes_and_what_is_kept_is_not_decoded(table, pixels, tmp_path, monkeypatch):
    shards = shards_of(table, tmp_path, 43 * FRAME)
    for episode in (0, 1, 2, 0):  # 13, 21 and 9 frames: all of the limit
        shards.read(first_of(episode))
    assert kept(shards) == [0, 1, 2]
    shards.read(first_of(3))  # 17 frames: episode 1 alone makes room for it
    assert kept(shards) == [0, 2, 3]
    asked = []
    monkeypatch.setattr(FrameStore, "decode", lambda self, episode: asked.append(episode))
    again = shards_of(table, tmp_path, 43 * FRAME)
    assert np.array_equal(again.read(first_of(3, 0, 2)), pixels[first_of(3, 0, 2)]) and asked == []


def test_what_is_in_the_whole_store_is_read_there(table, pixels, tmp_path):
    FrameStore(table, TOP, root=tmp_path).prepare([1, 4])
    shards = shards_of(table, tmp_path, 30 * FRAME)
    everything = np.arange(FRAMES)
    assert np.array_equal(shards.read(everything), pixels)
    assert set(kept(shards)) <= {0, 2, 3} and used(shards) <= 30 * FRAME


def test_an_episode_that_goes_while_it_is_read_is_read_to_its_end(table, pixels, tmp_path, monkeypatch):
    shards, read = shards_of(table, tmp_path), os.preadv
    shards.read(first_of(1))

    def go_first(*asked):
        for path in shards.folder.glob("*.u8"):
            path.unlink()
        return read(*asked)

    monkeypatch.setattr(os, "preadv", go_first)
    rows = np.arange(13, 34)
    assert np.array_equal(shards.read(rows), pixels[rows]) and kept(shards) == []
    assert np.array_equal(shards.read(rows), pixels[rows]), "and is decoded again"


def test_several_processes_and_threads_read_one_store_that_is_too_small(table, pixels, tmp_path):
    def work():
        rng, wrong = np.random.default_rng(os.getpid()), []
        shards = shards_of(table, tmp_path, 31 * FRAME)

        def read():
            for _ in range(12):
                rows = rng.integers(0, FRAMES, 3)
                if not np.array_equal(shards.read(rows), pixels[rows]):
                    wrong.append(rows)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and not [*shards.folder.glob("*.part")][4:], "one for each that decodes"

    in_processes(2, work)
    shards = shards_of(table, tmp_path, 31 * FRAME)
    assert used(shards) <= 31 * FRAME and not [*shards.folder.glob("*.part")]


def test_episodes_that_are_decoded_at_the_same_time_end_within_the_limit(table, pixels, tmp_path, monkeypatch):
    decode, together = FrameStore.decode, threading.Barrier(2)

    def wait_for_the_other(self, episode):
        together.wait(60)
        yield from decode(self, episode)

    monkeypatch.setattr(FrameStore, "decode", wait_for_the_other)
    monkeypatch.setattr(frame_shards, "_threads", lambda: 2)
    shards = shards_of(table, tmp_path, 31 * FRAME)
    assert np.array_equal(shards.read(first_of(1, 3)), pixels[first_of(1, 3)])
    assert len(kept(shards)) == 1 and used(shards) <= 31 * FRAME, "of 21 and 17 frames one is kept"


def test_two_that_need_an_episode_decode_it_once(table, pixels, tmp_path, monkeypatch):
    decode, decoded, go_on = FrameStore.decode, [], threading.Event()

    def slow(self, episode):
        decoded.append(episode)
        go_on.wait(20)
        yield from decode(self, episode)

    monkeypatch.setattr(FrameStore, "decode", slow)
    found = [None, None]

    def read(number):
        found[number] = shards_of(table, tmp_path).read(np.arange(5))

    threads = [threading.Thread(target=read, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    while not decoded:
        time.sleep(0.01)
    assert [path.name for path in (tmp_path).glob("*/episodes/*.u8")] == [], "a part has another name"
    time.sleep(0.2)
    go_on.set()
    for thread in threads:
        thread.join()
    assert decoded == [0] and all(np.array_equal(frames, pixels[:5]) for frames in found)


def test_killed_at_any_moment_the_next_one_reads_the_same_and_leaves_nothing(table, pixels, tmp_path):
    for number in range(1, 100):
        shards = shards_of(table, tmp_path / str(number), 35 * FRAME)
        killed = killed_before_write(number, lambda store=shards: store.read(np.arange(0, FRAMES, 7)))
        again = shards_of(table, tmp_path / str(number), 35 * FRAME)
        assert used(again) <= 35 * FRAME and not [*again.folder.glob("*.part")], number
        rows = np.arange(FRAMES)[::5]
        assert np.array_equal(again.read(rows), pixels[rows])
        if not killed:
            break
    assert number > 10


def test_a_part_of_one_who_is_alive_stays(table, tmp_path):
    shards = shards_of(table, tmp_path)
    child = os.fork()
    if child == 0:
        try:
            FrameStore.decode = lambda self, episode: time.sleep(60)
            shards.read(first_of(4))
        finally:
            os._exit(1)
    try:
        while not (part := [*shards.folder.glob("*.part")]) or part[0].stat().st_size == 0:
            time.sleep(0.01)
        shards.read(first_of(1))
        assert part[0].exists() and part[0].name == "4.part" and part[0].stat().st_size == 30 * FRAME
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    shards.read(first_of(0))
    assert not part[0].exists() and kept(shards) == [0, 1]


def test_few_files_are_open_at_a_time(table, pixels, tmp_path):
    shards = shards_of(table, tmp_path, FRAMES * FRAME)
    everything = np.arange(FRAMES)
    shards.read(everything)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Numbers of open files are given from the lowest on: room for two more.
    free = [number for number in range(1000) if not Path(f"/proc/self/fd/{number}").exists()][:2]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1] + 1, most[1]))
    try:
        read = shards.read(everything)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
    assert np.array_equal(read, pixels) and len(kept(shards)) == 5


@pytest.mark.parametrize("order", ["random", "by episode"])
def test_an_order_that_wastes_the_work_is_told_once_with_its_rate(table, tmp_path, caplog, monkeypatch, order):
    monkeypatch.setattr(frame_shards, "_SURE", 4)
    shards, rng = shards_of(table, tmp_path, 31 * FRAME), np.random.default_rng(0)
    with caplog.at_level(logging.WARNING, "hlrp.data"):
        for _ in range(3):
            rows = rng.integers(0, FRAMES, (30, 2)) if order == "random" else np.arange(FRAMES).reshape(-1, 2)
            for pair in rows:
                shards.read(np.sort(pair))
    said = [record.getMessage() for record in caplog.records if record.name == "hlrp.data"]
    assert len(said) == (order == "random")
    if said:
        assert "frames a second" in said[0] and "data.streaming=true" in said[0] and TOP in said[0]


def test_the_limit_is_of_all_cameras_and_one_episode_must_fit(table, pixels, tmp_path):
    source, said = [WindowSource(table.info, cameras=[TOP, WRIST])], []
    options = {"offset_seconds": 0.1, "cache_root": tmp_path, "announce": said.append}
    windows = FrameWindows(source, cache="disk", cache_limit_gb=2 * TWO / 1e9, **options)
    assert len(said) == 2 and "of 0.000829 GB are kept" in said[0] and "0.000479" in said[0]
    batch = windows.__getitems__([*range(0, FRAMES, 4)])
    assert np.array_equal(batch["frames"][:, 0, 0].numpy(), pixels[::4])
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in tmp_path.glob("*/episodes")}
    assert len(sizes) == 2 and max(sizes.values()) <= TWO
    with pytest.raises(UserError, match=r"longest episode of .* takes 0\.000276 GB"):
        FrameWindows(source, cache="disk", cache_limit_gb=2 * 29 * FRAME / 1e9, **options)
    with pytest.raises(UserError, match="more than the limit"):
        FrameWindows(source, cache="ram", cache_limit_gb=2 * TWO / 1e9, **options)


def test_more_than_is_free_is_told_before_the_work(table, tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(frame_shards.shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match="disk space") as raised:
        shards_of(table, tmp_path)
    assert "data.cache_limit_gb" in str(raised.value.fix)
