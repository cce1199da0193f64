"""Datasets that come as they are read: the same frames, codes and identity, and few files at a time."""

import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from index_videos import KINDS, LENGTHS, TOP, WRIST, index_dataset, number_of
from interruptions import killed_before_write

from hlrp.config import DataSection, LaqModel, LightningRun, LightningTrainerSection
from hlrp.data import DatasetInfo, read_dataset, read_episodes
from hlrp.data.checks import dataset_problems
from hlrp.data.compact import FrameRanges
from hlrp.data.computed_order import PieceEpoch
from hlrp.data.data_module import FrameDataModule
from hlrp.data.readers import DirectReader
from hlrp.data.sampler import ResumableSampler
from hlrp.data.streaming import Stream
from hlrp.data.windows import FrameWindows, WindowSource
from hlrp.errors import UserError

FRAMES = sum(LENGTHS)
TABLES = [f"data/chunk-000/file-00{i}.parquet" for i in (0, 1)]
VIDEOS = [f"videos/{TOP}/chunk-000/file-00{i}.mp4" for i in (0, 1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes in two tables, and two videos of each of two cameras."""
    return index_dataset(tmp_path_factory.mktemp("streamed") / "whole", KINDS["h264"])


@pytest.fixture
def bare(whole: Path, tmp_path: Path) -> Path:
    """A folder with its `meta/` alone, which says where the rest is."""
    folder = tmp_path / "bare"
    shutil.copytree(whole / "meta", folder / "meta")
    Stream(folder, f"file://{whole}").write_mark()
    return folder


def _streamed(folder: Path, limit_gb: float = 1.0) -> DatasetInfo:
    return read_dataset("me/toy", folder, streamed_gb=limit_gb)


def _came(folder: Path) -> list[str]:
    found = [p for name in ("data", "videos") for p in (folder / name).rglob("*") if p.is_file()]
    return sorted(p.relative_to(folder).as_posix() for p in found if not p.name.endswith(".lock"))


def test_frames_are_those_of_the_whole_dataset_and_come_with_their_files(whole: Path, bare: Path) -> None:
    reader = DirectReader(read_episodes(_streamed(bare)), TOP)
    assert _came(bare) == []
    shown = reader.read(np.arange(8, 20))
    assert [number_of(frame.transpose(1, 2, 0)) for frame in shown] == [*range(8, 20)]
    assert _came(bare) == [TABLES[1], VIDEOS[1]]
    indices = np.asarray([28, 0, 7, 3, 28, 12])
    frames = DirectReader(read_episodes(read_dataset(None, whole)), TOP).read(indices)
    assert np.array_equal(reader.read(indices), frames) and _came(bare) == sorted([*TABLES, *VIDEOS])
    in_place = DirectReader(read_episodes(_streamed(whole)), TOP)
    assert np.array_equal(in_place.read(indices), frames), "a folder is read where it lies"


def test_codes_are_those_of_the_whole_dataset_bit_for_bit(whole: Path, bare: Path, tmp_path: Path) -> None:
    from hlrp.laq import LAQ, LAQConfig
    from hlrp.latents.labelling import LabelRequest, LAQEncoder, label

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": (16, 24), "patch_size": 8, "dim": 32, "heads": 2, "code_dim": 8}
    layers = {"spatial_layers": 1, "temporal_layers": 1, "decoder_layers": 1, "offset_seconds": 0.2}
    laq = LAQ(LAQConfig(**sizes, **layers))
    tables = []
    for name, info in (("whole", read_dataset("me/toy", whole)), ("bare", _streamed(bare, 1e-9))):
        output = tmp_path / f"codes of {name}"
        request = LabelRequest(info, TOP, output, laq.config, "5" * 64, vectors=True, batch_size=7, shard_frames=9)
        assert label(request, LAQEncoder(laq, vectors=True), workers=2).frames == FRAMES
        tables.append({path.name: path.read_bytes() for path in output.iterdir() if path.is_file()})
    assert tables[0] == tables[1] and len([n for n in tables[0] if n.startswith("shard-")]) == 2
    assert not [name for name in _came(bare) if WRIST in name], "nothing is fetched of other cameras"


def test_the_identity_is_that_of_the_whole_dataset_and_is_asked_for_once(whole: Path, bare: Path) -> None:
    (bare / "other").symlink_to(whole)
    Stream(bare, f"file://{bare}/other/").write_mark()
    assert _streamed(bare).fingerprint() == read_dataset(None, whole).fingerprint()
    assert _came(bare) == []
    (bare / "other").unlink()
    assert _streamed(bare).fingerprint() == read_dataset(None, whole).fingerprint()
    with pytest.raises(UserError, match=r"file-000\.mp4 of the dataset cannot be fetched"):
        _streamed(bare).here(bare / VIDEOS[0])


def test_an_edit_of_a_video_is_another_identity(whole: Path, bare: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    video = copy / VIDEOS[1]
    content = bytearray(video.read_bytes())
    content[-1] ^= 1
    video.write_bytes(content)
    Stream(bare, f"file://{copy}").write_mark()
    assert (
        _streamed(bare).fingerprint()
        == read_dataset(None, copy).fingerprint()
        != read_dataset(None, whole).fingerprint()
    )


def test_what_was_not_used_for_longest_goes(whole: Path, bare: Path) -> None:
    info = _streamed(bare, sum((whole / name).stat().st_size for name in VIDEOS) / 1e9)
    for name in VIDEOS:
        info.here(bare / name)
    assert _came(bare) == VIDEOS
    long_ago = time.time() - 1000
    os.utime(bare / VIDEOS[0], (long_ago, long_ago))
    os.utime(bare / VIDEOS[1], (long_ago - 1, long_ago - 1))
    info.here(bare / VIDEOS[1])  # which is used now
    info.here(bare / TABLES[0])
    assert _came(bare) == [TABLES[0], VIDEOS[1]]
    tight = _streamed(bare, 1e-9)
    tight.here(bare / TABLES[1])
    assert _came(bare) == [*TABLES, VIDEOS[1]], "what was used just now may be about to be opened"


def test_a_failed_fetch_leaves_nothing(bare: Path, tmp_path: Path) -> None:
    info = _streamed(bare)
    with pytest.raises(UserError, match=r"data/chunk-000/file-007\.parquet of the dataset cannot be fetched") as raised:
        info.here(bare / "data/chunk-000/file-007.parquet")
    assert "goes on from here" in str(raised.value.fix) and _came(bare) == []
    (bare / ".hlrp-stream.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        _streamed(bare)


def test_a_fetch_that_ends_half_way_leaves_no_part_of_the_file(whole: Path, bare: Path) -> None:
    info, path = _streamed(bare), bare / VIDEOS[1]
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be fetched: OSError: .*File too large"):
            info.here(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert _came(bare) == [] and _parts(bare) == []
    for number in range(1, 10):
        path.unlink(missing_ok=True)
        killed = killed_before_write(number, lambda: info.here(path))
        info.here(path)
        assert path.read_bytes() == (whole / VIDEOS[1]).read_bytes() and _parts(bare) == []
        if not killed:
            break
    assert number > 1


def _parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name.startswith(".") and "part" in path.name]


def test_a_table_that_lacks_rows_is_named(whole: Path, bare: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    copy = shutil.copytree(whole, tmp_path / "copy")
    rows = pq.read_table(copy / TABLES[1])
    for kept, message in (
        (rows.slice(0, len(rows) - 1), "lacks rows of episode 3"),
        (rows.take([1, 0, 2]), "consecutive"),
    ):
        pq.write_table(kept, copy / TABLES[1])
        Stream(bare, f"file://{copy}").write_mark()
        with pytest.raises(UserError, match=message):
            DirectReader(read_episodes(_streamed(bare)), TOP).read(np.asarray([FRAMES - 1]))
        (bare / TABLES[1]).unlink()


def test_nothing_is_read_for_the_checks_before_a_run(bare: Path) -> None:
    assert [*dataset_problems(_streamed(bare))] == [] and _came(bare) == []
    missing = [p.message for p in dataset_problems(read_dataset(None, bare))]
    assert any("missing file" in message for message in missing), "without streaming they are"


@pytest.mark.parametrize(
    ("ends", "together"), [([5, 6, 20, 31, 40], 2), ([5, 6, 20, 31, 40], 9), ([7], 1), ([10_000, 30_000], 1)]
)
def test_an_epoch_draws_from_few_files_at_a_time(ends: list[int], together: int) -> None:
    order = PieceEpoch(np.asarray(ends), together, ends[-1], 3, 0)
    places = np.arange(ends[-1])
    positions = order(places)
    assert sorted(positions.tolist()) == places.tolist(), "every sample comes once"
    files = np.searchsorted(ends, positions, side="right")
    seen = list(dict.fromkeys(files.tolist()))
    for first in range(0, len(seen), together):
        group = np.isin(files, seen[first : first + together])
        begin = np.flatnonzero(group)[0]
        assert group[begin : begin + group.sum()].all(), "a group of files is done before the next one begins"
    assert order(places[::-3]).tolist() == positions[::-3].tolist(), "any place by itself"
    others = [PieceEpoch(np.asarray(ends), together, ends[-1], *key)(places).tolist() for key in ((3, 1), (4, 0))]
    assert positions.tolist() not in others and others[0] != others[1]
    assert (np.diff(positions) != 1).mean() > 0.5


def test_positions_of_files_are_those_of_their_episodes(whole: Path, bare: Path) -> None:
    for episodes, keep, expected in (
        (None, None, [8, 29]),
        ([0, 2], None, [7, 19]),
        ([3], None, [9]),
        (None, np.arange(FRAMES) % 2 == 1, [4, 14]),
    ):
        source = WindowSource(_streamed(bare), episodes, [TOP], keep=keep)
        windows = FrameWindows([source], offset_seconds=0.1)
        assert windows.file_ends().tolist() == expected
    assert FrameWindows(
        [WindowSource(_streamed(bare), cameras=[TOP, WRIST])], offset_seconds=0.1
    ).file_ends().tolist() == [8, 29]


def test_ranges_count_what_comes_before() -> None:
    ranges = FrameRanges([3, 10, 20], [5, 15, 21])
    frames = np.arange(25)
    assert ranges.before(frames).tolist() == [int((np.asarray(ranges) < frame).sum()) for frame in frames]


def _module(root: Path, **data: Any) -> FrameDataModule:
    run = LightningRun(
        trainer_type="lightning",
        model=LaqModel(kind="laq"),
        data=DataSection(root=root, offset_seconds=0.2, cameras=[TOP], num_workers=0, **data),
        trainer=LightningTrainerSection(batch_size=4, seed=5),
    )
    module = FrameDataModule(run, cameras=[TOP])
    module.setup("fit")
    return module


def test_training_goes_through_the_files_and_is_entered_anywhere(whole: Path, bare: Path) -> None:
    module = _module(bare, streaming=True, streaming_files=1)
    assert _came(bare) == []
    sampler = module.train_sampler()
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append([*sampler])
    samples = [position for batch in epochs[0] for position in batch]
    windows = module.train_windows
    assert windows is not None and len(set(samples)) == len(samples) == len(windows) // 4 * 4
    first = next(iter(module.train_dataloader()))
    assert len(_came(bare)) == 2, "one table and one video"
    shown = [number_of(frame.numpy().transpose(1, 2, 0)) for frame in first["frames"][:, 0]]
    assert shown == first["index"].tolist() == windows.ids(epochs[0][0])[:, 1].tolist()
    entered = module.train_sampler()
    entered.load_state_dict({**sampler.state_dict(), "epoch": 1, "position": 3})
    assert [*entered] == epochs[1][3:]
    halves = [
        ResumableSampler([len(windows)], 2, seed=5, rank=r, world_size=2, pieces=module.train_windows.file_ends())
        for r in (0, 1)
    ]  # type: ignore[union-attr]
    assert [sorted([*a, *b]) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in epochs[0]]
    with pytest.raises(UserError, match="files was"):
        _module(bare, streaming=True, streaming_files=2).train_sampler().load_state_dict(sampler.state_dict())
    assert _module(whole).train_sampler().state_dict()["files"] is None


def test_with_a_store_frames_are_kept_too_and_nothing_is_fetched_for_it(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    options: dict[str, Any] = {"offset_seconds": 0.1, "cache": "disk", "cache_root": tmp_path / "store"}
    windows = FrameWindows([WindowSource(_streamed(bare), cameras=[TOP])], **options)
    assert _came(bare) == []
    shown = windows.__getitems__([8, 28, 9])["frames"][:, 0].numpy()
    assert [number_of(frame.transpose(1, 2, 0)) for frame in shown] == [8, 28, 9]
    assert _came(bare) == [TABLES[1], VIDEOS[1]]
    assert sorted(path.name for path in (tmp_path / "store").glob("*/episodes/*.u8")) == ["2.u8", "3.u8"]


@pytest.fixture
def imported(whole: Path, tmp_path: Path) -> Path:
    """The `meta/` of 100 episodes of 5 frames that lie in a video each, as `hlrp import-video` writes them."""
    folder, count, length = tmp_path / "imported", 100, 5
    shutil.copytree(whole / "meta", folder / "meta")
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"total_episodes": count, "total_frames": count * length}))
    table = folder / "meta/episodes/chunk-000/file-000.parquet"
    row, video = pq.read_table(table).to_pylist()[0], f"videos/{TOP}"
    places = [{"dataset_from_index": length * e, "dataset_to_index": length * (e + 1)} for e in range(count)]
    own = [{"episode_index": e, "length": length, f"{video}/file_index": e, **places[e]} for e in range(count)]
    pq.write_table(pa.Table.from_pylist([row | part for part in own]), table)
    return folder


def _episodes_at_first(module: FrameDataModule) -> int:
    """Episodes that the first 150 samples are of."""
    samples = [position for batch in [*module.train_sampler()][: 150 // 4] for position in batch]
    return len({position // 3 for position in samples})  # 5 frames of which 3 begin a window


def test_files_of_one_episode_each_are_drawn_from_64_at_a_time_where_frames_are_kept(
    imported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HLRP_CACHE", str(tmp_path / "cache"))
    module = _module(imported, streaming=True, cache="disk")
    assert module.train_sampler().signature()["files"] == [100, 64] and _episodes_at_first(module) > 48
    few = {"streaming": True, "cache": "disk", "episodes": list(range(0, 100, 5))}
    assert _module(imported, **few).train_sampler().signature()["files"] == [20, 64]
    # Episodes that no window fits into count as little as files without any.
    keep = np.arange(500) % 5 < (np.arange(500) // 5 % 2)
    windows = FrameWindows([WindowSource(_streamed(imported), cameras=[TOP], keep=keep)], offset_seconds=0.1)
    assert (len(windows.file_ends()), windows.files_together(None)) == (50, 64)
    # Decoded frames of 33 files, at 64 x 96.
    kept = _module(imported, streaming=True, cache="disk", cache_limit_gb=33 * 5 * 64 * 96 * 3 / 1e9)
    assert kept.train_sampler().signature()["files"] == [100, 33]
    assert _episodes_at_first(_module(imported, streaming=True, streaming_files=20)) <= 3 * 20
    assert "streaming_files" not in caplog.text
    module = _module(imported, streaming=True)
    assert [module.train_sampler().signature()["files"] for _ in range(2)] == [[100, 16]] * 2
    assert caplog.text.count("data.streaming_files=64 draws from more") == 1


def test_a_run_goes_on_with_as_many_files_as_it_began_with(imported: Path) -> None:
    older = _module(imported, streaming=True, streaming_files=20)
    order = [*older.train_sampler()]
    module = _module(imported, streaming=True)
    assert [*module.train_sampler()] != order
    module.load_state_dict(older.state_dict())
    assert [*module.train_sampler()] == order
    with pytest.raises(UserError, match="files was"):
        _module(imported, streaming=True, streaming_files=64).load_state_dict(older.state_dict())
