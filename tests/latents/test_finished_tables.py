"""The manifest of a latent table: of the shards that are there, whoever wrote them, however many finish at once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interruptions import killed_before_write
from make_dataset import make_dataset
from torch import Tensor
from two_processes import in_processes

from hlrp.data import decode, read_dataset, read_episodes
from hlrp.data.open_video import pixel_source
from hlrp.files import sha256_of
from hlrp.laq.config import LAQConfig
from hlrp.latents import LatentTable, table
from hlrp.latents.labelling import LabelRequest, label
from hlrp.latents.shards import ShardRows, plan_shards
from hlrp.latents.table import finish_table
from hlrp.latents.verify import verify_table
from hlrp.ranks import Ranks

EPISODES, LENGTH, LOST = 4, 8, "shard-00001.safetensors"
CONFIG = LAQConfig(image_size=(16, 16), patch_size=8)


def zeros(windows: Tensor) -> tuple[Tensor, None]:
    """An encoder to which all windows are alike."""
    return torch.zeros(len(windows), CONFIG.num_frames - 1, CONFIG.code_seq_len, dtype=torch.long), None


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> LabelRequest:
    """A finished table of four shards."""
    folder = tmp_path_factory.mktemp("finished")
    info = read_dataset(None, make_dataset(folder / "data", episodes=EPISODES, length=LENGTH, size=32))
    request = LabelRequest(info, None, folder / "table", CONFIG, "5" * 64, shard_frames=1)
    assert label(request, zeros, workers=1).complete
    return request


@pytest.fixture
def request_(labelled: LabelRequest, tmp_path: Path) -> LabelRequest:
    """The same in a folder of the test's own."""
    return replace(labelled, output=Path(shutil.copytree(labelled.output, tmp_path / "table")))


def of_another_version(monkeypatch: pytest.MonkeyPatch) -> str:
    """Have frames decoded by what says that it is another version; a shard made now has other bytes."""
    other = pixel_source().replace("PyAV", "PyAV 0.1, before")
    assert other != pixel_source()
    monkeypatch.setattr(decode, "pixel_source", lambda *_: other)
    return other


def test_a_shard_that_is_made_again_stands_in_the_manifest(
    request_: LabelRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = request_.info.root, LatentTable.open(request_.output).manifest
    (request_.output / LOST).unlink()
    other = of_another_version(monkeypatch)
    result = label(request_, zeros, workers=1)
    assert result.complete and result.frames == LENGTH
    after = LatentTable.open(request_.output).manifest
    assert after.decoded_by == sorted([pixel_source(), other]) and before.decoded_by == [pixel_source()]
    assert after.shards[1].sha256 == sha256_of(request_.output / LOST) != before.shards[1].sha256
    assert verify_table(request_.output, root).ok
    stamp = (request_.output / "manifest.json").stat().st_mtime_ns
    assert label(request_, zeros, workers=1).complete
    assert (request_.output / "manifest.json").stat().st_mtime_ns == stamp, "there is nothing to do"


def test_killed_while_a_shard_is_made_again(request_: LabelRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    of_another_version(monkeypatch)
    for number in range(1, 30):
        again = replace(request_, output=request_.output.with_name(str(number)))
        shutil.copytree(request_.output, again.output)
        (again.output / LOST).unlink()
        killed = killed_before_write(number, lambda again=again: label(again, zeros, workers=1))
        assert label(again, zeros, workers=1).complete
        assert verify_table(again.output, again.info.root).ok, number
        if not killed:
            break
    assert not killed and number > 6


def test_of_several_processes_each_makes_its_own_again(request_: LabelRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shard-00000.safetensors", LOST):
        (request_.output / name).unlink()
    of_another_version(monkeypatch)
    idle, first, last = (label(replace(request_, ranks=Ranks(r, 4)), zeros, workers=1) for r in (3, 0, 1))
    assert [r.complete for r in (idle, first, last)] == [False, False, True]
    assert [r.frames for r in (idle, first, last)] == [0, LENGTH, LENGTH]
    assert verify_table(request_.output, request_.info.root).ok


def test_a_shard_that_another_process_has_made_meanwhile_is_kept(
    request_: LabelRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command, run twice at once: what the faster one has finished stays finished."""
    theirs = (request_.output / LOST).read_bytes()
    (request_.output / LOST).unlink()

    def slow(windows: Tensor) -> tuple[Tensor, None]:
        (request_.output / LOST).write_bytes(theirs)
        return zeros(windows)

    of_another_version(monkeypatch)
    assert label(request_, slow, workers=1).complete
    assert (request_.output / LOST).read_bytes() == theirs
    assert verify_table(request_.output, request_.info.root).ok


def test_any_number_of_processes_finish_together(request_: LabelRequest) -> None:
    manifest = request_.output / "manifest.json"
    expected, shards = manifest.read_bytes(), plan_shards(read_episodes(request_.info), 1)
    identity = request_.identity()

    def finish() -> None:
        for _ in range(20):
            assert finish_table(request_.output, identity, shards)

    manifest.unlink()
    in_processes(4, finish)
    assert manifest.read_bytes() == expected
    assert not list(request_.output.glob(".*"))


@pytest.mark.parametrize("step", [1, 2])
def test_what_is_being_written_may_be_taken_for_a_leftover(
    request_: LabelRequest, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """By another process that finishes too, before this one's file is flushed and before it is renamed."""
    manifest, identity = request_.output / "manifest.json", request_.identity()
    expected, shards = manifest.read_bytes(), plan_shards(read_episodes(request_.info), 1)
    name = "chmod" if step == 2 else "write_bytes"
    original, calls = getattr(Path, name), []

    def overtaken(path: Path, *given: object) -> object:
        result = original(path, *given)
        calls.append(path)
        if len(calls) == 1:
            assert finish_table(request_.output, identity, shards)
            assert not path.exists()
        return result

    manifest.unlink()
    monkeypatch.setattr(Path, name, overtaken)
    assert finish_table(request_.output, identity, shards)
    assert len(calls) == 3 and manifest.read_bytes() == expected
    assert not list(request_.output.glob(".*"))


def test_what_a_killed_writer_left_vanishes(request_: LabelRequest) -> None:
    for name in (LOST, "manifest.json"):
        (request_.output / f".{name}.abc.tmp").write_bytes(b"half")
    (request_.output / "manifest.json").unlink()
    assert label(request_, zeros, workers=1).complete
    assert not list(request_.output.glob(".*"))


def test_a_shard_that_is_replaced_while_another_process_finishes(
    request_: LabelRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer has finished the table before what was read of the old shard is written."""
    episodes, identity = read_episodes(request_.info), request_.identity()
    shards = plan_shards(episodes, 1)
    write, calls = table.write_json, []

    def overtaken(path: Path, value: object) -> None:
        calls.append(path)
        if len(calls) == 1:
            ShardRows(identity, shards[1], episodes, "another").write(request_.output)
            finish_table(request_.output, identity, shards)
        write(path, value)

    monkeypatch.setattr(table, "write_json", overtaken)
    assert finish_table(request_.output, identity, shards)
    said = json.loads((request_.output / "manifest.json").read_text())
    assert said["decoded_by"] == sorted([pixel_source(), "another"]) and len(calls) == 3
    assert [s["sha256"] for s in said["shards"]] == [sha256_of(request_.output / s.name) for s in shards]
    assert said["valid_pairs"] == int(np.sum([LENGTH - 1] * (EPISODES - 1)))
