"""Latent tables: looked up by index, refused where they do not fit, written as columns of a linked dataset."""

import gc
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from small_datasets import LENGTHS, TOP

from hlrp.data import read_dataset, read_episodes
from hlrp.data.compact import FrameRanges
from hlrp.errors import UserError
from hlrp.files import sha256_of
from hlrp.latents import LatentTable
from hlrp.latents.column import write_column
from hlrp.latents.shards import LatentIdentity, ShardRows, plan_shards, read_header, shard_frames_for
from hlrp.latents.sources import PrecomputedLabels
from hlrp.latents.table import finish_table
from hlrp.latents.verify import verify_table

ROWS = sum(LENGTHS)


def make_table(
    folder, info, *, num_frames=2, positions=4, vector_dim=None, shard_frames=20, upto=None, codebook_size=40_000
):
    """A table of random codes, with what it should give: codes, valid, vectors."""
    table = read_episodes(info)
    identity = LatentIdentity(
        laq_sha256="a" * 64,
        dataset_fingerprint=info.fingerprint(),
        camera=TOP,
        offset_seconds=0.3,
        offset_frames=3,
        num_frames=num_frames,
        code_seq_len=positions,
        codebook_size=codebook_size,
        vector_dim=vector_dim,
        rows=info.frames,
        episodes=info.episodes,
        shard_frames=shard_frames,
    )
    rng = np.random.default_rng(0)
    codes = rng.integers(0, codebook_size, (info.frames, num_frames - 1, positions))
    index = np.arange(info.frames)
    ends = table.end[table.episode_of(index)][:, None]
    valid = index[:, None] + 3 * np.arange(1, num_frames) < ends
    vectors = rng.normal(size=(*codes.shape, vector_dim)).astype(np.float32) if vector_dim else None
    folder.mkdir()
    shards = plan_shards(table, shard_frames)
    for shard in shards[:upto]:
        rows = index[shard.first_row : shard.end_row]
        part = ShardRows(identity, shard, table)
        part.fill(rows, codes[rows], valid[rows], None if vectors is None else vectors[rows])
        part.write(folder)
    finish_table(folder, identity, shards)
    # What was filled in where nothing is valid is not kept.
    return np.where(valid[..., None], codes, 0), valid, vectors


@pytest.fixture(scope="module")
def info(video_root):
    return read_dataset(None, video_root)


def test_shards_hold_whole_episodes_and_every_frame_once(info):
    table = read_episodes(info)
    for frames in (1, 20, 33, 10_000):
        shards = plan_shards(table, frames)
        assert [s.first_row for s in shards] == [0, *[s.end_row for s in shards[:-1]]]
        assert shards[-1].end_row == ROWS and shards[-1].end_episode == len(LENGTHS)
        assert all(s.rows == sum(LENGTHS[s.first_episode : s.end_episode]) for s in shards)
        assert all(s.rows >= frames for s in shards[:-1])
    assert len(plan_shards(table, 1)) == len(LENGTHS) and len(plan_shards(table, 10_000)) == 1


def test_a_table_of_very_many_frames_has_few_shards_unless_it_was_begun(info, tmp_path):
    assert shard_frames_for(10**6, tmp_path) == 4096
    assert 4095 < 10**10 / shard_frames_for(10**10, tmp_path) <= 4096
    make_table(tmp_path / "table", info, upto=1)
    assert shard_frames_for(10**10, tmp_path / "table") == 20


@pytest.mark.parametrize(("num_frames", "shard_frames"), [(2, 20), (3, 1), (4, 10_000)])
def test_codes_by_index_in_any_order(info, tmp_path, num_frames, shard_frames):
    codes, valid, vectors = make_table(
        tmp_path / "table", info, num_frames=num_frames, vector_dim=3, shard_frames=shard_frames
    )
    table = LatentTable.open(tmp_path / "table")
    assert len(table) == ROWS
    asked = np.random.default_rng(1).integers(0, ROWS, 50)
    for indices in (asked, asked.tolist(), torch.from_numpy(asked), asked[:0]):
        found, ok = table.codes(indices)
        rows = asked[: len(indices)]
        assert (found.dtype, ok.dtype) == (torch.int64, torch.bool)
        assert torch.equal(found, torch.from_numpy(codes[rows]))
        assert torch.equal(ok, torch.from_numpy(valid[rows]))
    expected = np.where(valid[..., None, None], vectors, 0)[asked]
    assert np.array_equal(table.vectors(asked).numpy(), expected)
    assert table.manifest.valid_pairs == valid.sum()
    found[:] = 1  # what is handed out is a copy of what is on disk
    assert torch.equal(table.codes(asked)[0], torch.from_numpy(codes[asked]))


def say_otherwise(shard, change):
    """Write a shard anew with another header."""
    with safe_open(shard, "numpy") as file:
        said, arrays = json.loads(file.metadata()["hlrp"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(said)
    save_file(arrays, shard, {"hlrp": json.dumps(said)})


@pytest.mark.parametrize(("says", "rows_read"), [(True, 0 + 15 + 2), (False, 90 + 75 + 2)])
def test_codes_are_counted_by_what_shards_say_and_rows_are_read_where_they_do_not(
    info, tmp_path, monkeypatch, says, rows_read
):
    codes, valid, _ = make_table(tmp_path / "table", info, num_frames=3, positions=2, codebook_size=50)
    if not says:  # as older versions wrote them
        for shard in (tmp_path / "table").glob("shard-*"):
            say_otherwise(shard, lambda said: said.pop("code_counts"))
    table, look_up, read = LatentTable.open(tmp_path / "table"), LatentTable.codes, []
    assert table.manifest.valid_pairs == valid.sum()
    monkeypatch.setattr(LatentTable, "codes", lambda self, rows: [read.append(len(rows)), look_up(self, rows)][1])
    # Shards begin at 0, 34 and 60; of the second case five rows and ten are not asked for.
    for frames in (FrameRanges([0], [90]), FrameRanges([0, 15], [10, 80]), FrameRanges([3], [5]), FrameRanges([], [])):
        rows = np.asarray(frames, np.int64)
        columns = [codes[rows][valid[rows][:, pair], pair, place] for pair in range(2) for place in range(2)]
        counts = PrecomputedLabels([table]).code_counts([frames])
        assert counts.tolist() == [np.bincount(column, minlength=50).tolist() for column in columns]
    assert sum(read) == rows_read


def test_counts_that_are_not_those_of_the_codes_are_found(info, tmp_path):
    make_table(tmp_path / "table", info, codebook_size=50)
    assert verify_table(tmp_path / "table", info.root).ok
    shard = tmp_path / "table" / "shard-00001.safetensors"
    say_otherwise(shard, lambda said: said["code_counts"][0].reverse())
    manifest = json.loads((tmp_path / "table" / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = sha256_of(shard)
    (tmp_path / "table" / "manifest.json").write_text(json.dumps(manifest))
    found = verify_table(tmp_path / "table", info.root).problems
    assert found == [f"{shard.name} says other counts of its codes than it holds"]
    say_otherwise(shard, lambda said: said["code_counts"].pop())
    with pytest.raises(UserError, match=r"counts of codes \(3, 50\) instead of \(4, 50\)"):
        read_header(shard)


def test_it_travels_to_workers_without_its_content(info, tmp_path):
    codes, *_ = make_table(tmp_path / "table", info, vector_dim=32)
    table = LatentTable.open(tmp_path / "table")
    table.vectors(range(ROWS))
    packed = pickle.dumps(table)
    assert len(packed) < 3000
    assert np.array_equal(pickle.loads(packed).codes(range(ROWS))[0].numpy(), codes)


def test_shards_leave_no_file_open_and_few_are_mapped(info, tmp_path, monkeypatch):
    codes, valid, vectors = make_table(tmp_path / "table", info, vector_dim=3, shard_frames=1)
    monkeypatch.setattr("hlrp.latents.table._MOST_MAPPED", 2)
    table = LatentTable.open(tmp_path / "table")

    def mapped():
        return sum("table/shard-" in line for line in Path("/proc/self/maps").read_text().splitlines())

    gc.collect()  # what earlier tests left open is theirs
    before, maps = len([*Path("/proc/self/fd").iterdir()]), mapped()
    rows = np.random.default_rng(0).permutation(ROWS)
    assert len(table.manifest.shards) > 3
    for part in np.array_split(rows, 8):
        assert np.array_equal(table.codes(part)[0].numpy(), codes[part])
        assert np.array_equal(table.vectors(part).numpy(), np.where(valid[..., None, None], vectors, 0)[part])
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert mapped() - maps == 2, "one mapping a shard, of as many as are kept"
    with pytest.raises(ValueError, match="read-only"):
        table.array(0, "codes")[0] = 1


def test_an_index_it_does_not_have(info, tmp_path):
    make_table(tmp_path / "table", info)
    for index in (-1, ROWS):
        with pytest.raises(UserError, match=f"no row for frame {index}: it has {ROWS}"):
            LatentTable.open(tmp_path / "table").codes([0, index])
    with pytest.raises(UserError, match="--vectors"):
        LatentTable.open(tmp_path / "table").vectors([0])


def test_what_does_not_fit_is_refused_with_both_sides_named(info, image_root, tmp_path):
    make_table(tmp_path / "table", info)
    table = LatentTable.open(tmp_path / "table")
    table.check(dataset=info, laq_sha256="a" * 64, camera=TOP, offset_seconds=0.3, num_frames=2, code_seq_len=4)
    other = read_dataset(None, image_root)
    for asked, mine, theirs in (
        ({"dataset": other}, info.fingerprint(), other.fingerprint()),
        ({"laq_sha256": "b" * 64}, "a" * 64, "b" * 64),
        ({"camera": "observation.images.wrist"}, TOP, "observation.images.wrist"),
        ({"offset_seconds": 0.5}, "0.3", "0.5"),
        ({"num_frames": 3}, "has 2", "is 3"),
        ({"code_seq_len": 1}, "has 4", "is 1"),
        ({"codebook_size": 16}, "40000", "16"),
        # The same frames at another speed: the offset in seconds agrees, what it spans does not.
        ({"dataset": replace(info, fps=20)}, "has 3", "is 6"),
    ):
        with pytest.raises(UserError) as caught:
            table.check(**asked)
        assert mine in caught.value.what and theirs in caught.value.what


def test_unfinished_missing_and_damaged_tables(info, tmp_path):
    with pytest.raises(UserError, match="no latent table"):
        LatentTable.open(tmp_path)
    make_table(tmp_path / "half", info, upto=2)
    with pytest.raises(UserError, match="not finished: it has 2 shards"):
        LatentTable.open(tmp_path / "half")
    make_table(tmp_path / "table", info)
    manifest = tmp_path / "table" / "manifest.json"
    said = json.loads(manifest.read_text())
    for change in ({"schema_version": 2}, {"kind": "laq"}, {"extra": 1}, {"valid_pairs": None}):
        manifest.write_text(json.dumps(said | change))
        with pytest.raises(UserError, match="cannot be read"):
            LatentTable.open(tmp_path / "table")
    shard = tmp_path / "table" / "shard-00000.safetensors"
    whole = shard.read_bytes()
    for damaged in (whole[:-1], whole[:50], b"", b"\xff" * 100, whole + b"0"):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match="shard cannot be read"):
            read_header(shard)


@pytest.fixture(scope="module")
def two_tables(info, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {t: (folder / str(t), make_table(folder / str(t), info, num_frames=t, positions=t - 1)) for t in (2, 3)}


@pytest.mark.parametrize("num_frames", [2, 3])
def test_stock_lerobot_reads_the_columns(info, video_root, two_tables, tmp_path, num_frames):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder, (codes, valid, _) = two_tables[num_frames]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(video_root.rglob("*")) if p.is_file()}
    out = tmp_path / "labelled"
    result = write_column(LatentTable.open(folder), info, out)
    assert result.linked == 2 and result.symlinked == 0
    new = LeRobotDataset("local/labelled", root=out, video_backend="pyav")
    old = LeRobotDataset("local/video", root=video_root, video_backend="pyav")
    assert len(new) == ROWS and new.meta.total_episodes == len(LENGTHS)
    for i in (0, 12, 13, 50, ROWS - 1):
        item, plain = new[i], old[i]
        assert torch.equal(item["latent_codes"], torch.from_numpy(codes[i]))
        assert item["latent_codes"].shape == (num_frames - 1, num_frames - 1)
        assert item["latent_valid"].view(-1).tolist() == valid[i].tolist()
        assert set(item) - set(plain) == {"latent_codes", "latent_valid"}
        for key in plain:
            assert torch.equal(item[key], plain[key]) if torch.is_tensor(plain[key]) else item[key] == plain[key]
    batch = next(iter(torch.utils.data.DataLoader(new, batch_size=4)))
    assert batch["latent_codes"].shape == (4, num_frames - 1, num_frames - 1)
    episodes = Path("meta/episodes/chunk-000/file-000.parquet")
    assert (out / episodes).read_bytes() == (video_root / episodes).read_bytes()
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(video_root.rglob("*")) if p.is_file()}
    assert after == before
    videos = [p for p in before if p.suffix == ".mp4"]
    assert all((out / p.relative_to(video_root)).samefile(p) for p in videos)
    # LeRobot rewrites metadata in place: through a link that would change the source.
    assert not any((out / p.relative_to(video_root)).samefile(p) for p in before if p not in videos)
    assert {p.name for p in tmp_path.iterdir()} == {"labelled", ".labelled.lock"}


def test_written_again_it_is_left_alone_and_other_labels_are_refused(info, two_tables, tmp_path):
    table, other = (LatentTable.open(two_tables[t][0]) for t in (2, 3))
    write_column(table, info, tmp_path / "out")
    stamp = (tmp_path / "out").stat().st_mtime_ns
    assert write_column(table, info, tmp_path / "out").linked == 0
    assert (tmp_path / "out").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="is not this dataset with these labels"):
        write_column(other, info, tmp_path / "out")
    with pytest.raises(UserError, match="already"):
        labelled = read_dataset(None, tmp_path / "out")
        fits = two_tables[2][0].parent / "labelled"
        make_table(fits, labelled)
        write_column(LatentTable.open(fits), labelled, tmp_path / "twice")


def test_copies_links_across_disks_and_leftovers(info, video_root, two_tables, tmp_path, monkeypatch):
    table = LatentTable.open(two_tables[2][0])
    (tmp_path / ".copy.partial" / "videos").mkdir(parents=True)
    (tmp_path / ".copy.partial" / "videos" / "half.mp4").write_bytes(b"half")
    write_column(table, info, tmp_path / "copy", copy=True)
    videos = [p.relative_to(video_root) for p in video_root.rglob("*.mp4")]
    assert sorted(p.relative_to(tmp_path / "copy") for p in (tmp_path / "copy").rglob("*.mp4")) == sorted(videos)
    for video in videos:
        assert not (tmp_path / "copy" / video).samefile(video_root / video)
        assert (tmp_path / "copy" / video).read_bytes() == (video_root / video).read_bytes()

    def refuse(self, target):
        raise OSError("another device")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert write_column(table, info, tmp_path / "far").symlinked == 2
    for video in videos:
        assert (tmp_path / "far" / video).is_symlink() and (tmp_path / "far" / video).samefile(video_root / video)
        assert (tmp_path / "far" / video).readlink().is_absolute()


def test_places_and_tables_that_do_not_fit(info, video_root, image_root, two_tables, tmp_path):
    table = LatentTable.open(two_tables[2][0])
    with pytest.raises(UserError, match="inside the dataset"):
        write_column(table, info, video_root / "labelled")
    assert not list(video_root.glob("*labelled*"))
    with pytest.raises(UserError, match="does not fit"):
        write_column(table, read_dataset(None, image_root), tmp_path / "out")
    copy = tmp_path / "copy"
    shutil.copytree(video_root, copy)
    changed = next((copy / "data").rglob("*.parquet"))
    changed.write_bytes(changed.read_bytes() + b"x")
    with pytest.raises(UserError, match="dataset: the table has"):
        write_column(table, read_dataset(None, copy), tmp_path / "out")
