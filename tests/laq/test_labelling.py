"""Labelling: the codes are those of the windows, whatever is killed, shared or broken on the way."""

import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from interruptions import killed_before_write
from laq_toys import EPISODES, LENGTH

from hlrp import ranks
from hlrp.data import BadVideoError, FrameWindows, WindowSource, frame_pipeline, read_dataset, read_episodes
from hlrp.data.decode import SequentialDecoder
from hlrp.data.frame_pipeline import DeviceChunk, FramePipeline
from hlrp.data.open_video import pixel_source
from hlrp.errors import UserError
from hlrp.laq import LAQ, LAQConfig
from hlrp.latents import LatentTable, labelling
from hlrp.latents.labelling import LabelRequest, LAQEncoder, choose_camera, default_output, label
from hlrp.latents.verify import verify_table
from hlrp.latents.window_batches import WindowBatcher
from hlrp.ranks import Ranks


@pytest.fixture(scope="module")
def broken_root(root, tmp_path_factory):
    """The same with a hole of zeros in the middle of its video."""
    broken = tmp_path_factory.mktemp("broken") / "squares"
    shutil.copytree(root, broken)
    path = next((broken / "videos").rglob("*.mp4"))
    content = bytearray(path.read_bytes())
    begin = content.index(b"mdat") + 4
    # From a third of the pictures on to the half of them; the index at the end of the file stays whole.
    size = int.from_bytes(content[begin - 8 : begin - 4], "big") - 8
    hole = slice(begin + size // 3, begin + size // 2)
    content[hole] = bytes(hole.stop - hole.start)
    path.write_bytes(content)
    return broken


@pytest.fixture
def job(root, tmp_path, small):
    """Builds a request and its encoder."""

    def build(data=root, output="table", num_frames=2, offset_seconds=0.3, **changes):
        torch.manual_seed(3)
        laq = small(num_frames=num_frames, offset_seconds=offset_seconds)
        request = LabelRequest(
            info=read_dataset(None, data),
            camera="observation.image",
            output=tmp_path / output,
            config=laq.config,
            laq_sha256="5" * 64,
            batch_size=7,
            shard_frames=30,
        )
        request = replace(request, **changes)
        return request, LAQEncoder(laq, vectors=request.vectors), laq

    return build


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize(("num_frames", "offset_seconds"), [(2, 0.1), (2, 0.5), (3, 0.3), (4, 0.7)])
def test_codes_are_those_of_the_windows(job, monkeypatch, num_frames, offset_seconds):
    # Chunks of 5 frames, batches of 7 and windows of up to 22: everything that could be cut is cut.
    monkeypatch.setattr(labelling, "CHUNK", 5)
    request, encoder, laq = job(num_frames=num_frames, offset_seconds=offset_seconds, vectors=True)
    result = label(request, encoder)
    assert result.complete and result.frames == EPISODES * LENGTH
    windows = FrameWindows(
        [WindowSource(request.info)], num_frames=num_frames, offset_seconds=offset_seconds, size=(16, 24)
    ).__getitems__(range(EPISODES * LENGTH))
    codes, valid = (table := LatentTable.open(request.output)).codes(windows["index"])
    assert codes.shape == (EPISODES * LENGTH, num_frames - 1, 4)
    assert torch.equal(valid, windows["valid"]) and valid.any() and not valid.all()
    assert torch.equal(codes[valid], laq.encode(windows["frames"])[valid])
    assert len(codes[valid].unique()) > 1
    assert not codes[~valid].any()
    vectors = table.vectors(windows["index"])
    assert torch.allclose(vectors[valid], laq.encode_vectors(windows["frames"])[valid], atol=1e-5)
    assert len(table.manifest.shards) == 3


@pytest.mark.parametrize("chunk", [1, 4, 30])
def test_windows_repeat_the_last_frame_of_their_episode(chunk):
    """Frames that hold their own index; 4 frames, 3 apart, of episodes of 5, 12 and 2."""
    batcher, made, row = WindowBatcher(4, 3, 5, chunk), {}, 0
    for episode, length in enumerate((5, 12, 2)):
        for start in range(0, length, chunk):
            frames = torch.arange(row + start, row + min(start + chunk, length)).view(-1, 1, 1, 1)
            made |= _rows(batcher.add(DeviceChunk(episode, start, frames), row, length))
        row += length
    made |= _rows(batcher.flush())
    first = {0: (0, 4), 5: (5, 16)}
    expected = {
        begin + i: [min(begin + i + 3 * j, last) for j in range(4)]
        for begin, last in first.values()
        for i in range(last - begin + 1 - 3)
    }
    assert made == expected


def _rows(batches):
    return {r: w.flatten().tolist() for rows, windows in batches for r, w in zip(rows.tolist(), windows, strict=True)}


def test_every_frame_is_decoded_once(job, monkeypatch):
    decoded = []
    frames = SequentialDecoder.frames

    def spy(self, *args, **options):
        for chunk in frames(self, *args, **options):
            decoded.extend((chunk.episode, chunk.start + i) for i in range(len(chunk.frames)))
            yield chunk

    monkeypatch.setattr(SequentialDecoder, "frames", spy)
    request, encoder, _ = job(num_frames=4)
    label(request, encoder)
    assert decoded == [(e, i) for e in range(EPISODES) for i in range(LENGTH)]


@pytest.mark.parametrize("frames_of_a_job", [1, 512])
def test_the_bytes_do_not_depend_on_the_number_of_threads(job, monkeypatch, frames_of_a_job):
    monkeypatch.setattr(frame_pipeline, "_JOB_FRAMES", frames_of_a_job)
    threads = set()
    frames = SequentialDecoder.frames

    def spy(self, *args, **options):
        threads.add((threading.current_thread().name, options["threads"]))
        return frames(self, *args, **options)

    monkeypatch.setattr(SequentialDecoder, "frames", spy)
    tables = {}
    for workers in (0, 1, 2, 5):
        request, encoder, _ = job(output=f"with {workers}", vectors=True)
        threads.clear()
        label(request, encoder, workers=workers)
        tables[workers] = content(request.output)
        jobs = EPISODES if frames_of_a_job == 1 else 1
        if workers:
            assert {number for _, number in threads} == {1}, "the decoder adds none of its own"
            assert len(threads) <= min(workers, jobs)
    assert all(table == tables[1] for table in tables.values())


def test_threads_follow_the_cores_of_the_process(job, root, monkeypatch):
    request, *_ = job()
    decoder = SequentialDecoder(read_episodes(request.info), "observation.image", 16)
    monkeypatch.setattr(frame_pipeline, "_JOB_FRAMES", 1)
    for cores, beside, asked, expected in (
        (16, "", 0, (6, 2)),
        (4, "", 0, (4, 1)),
        (8, "4", 0, (2, 1)),
        (2, "", 5, (5, 1)),
    ):
        monkeypatch.setattr(ranks, "cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
        pipeline = FramePipeline(decoder, range(EPISODES), torch.device("cpu"), workers=asked)
        assert (pipeline.workers, pipeline.decoder_threads) == expected, (cores, beside, asked)


def test_what_waits_is_bounded_whatever_the_size_of_frames(job, monkeypatch):
    request, *_ = job()
    table = read_episodes(request.info)
    for size, most in ((16, 64), (1000, 2), (4000, 1)):
        pipeline = FramePipeline(SequentialDecoder(table, "observation.image", size), [0], torch.device("cpu"))
        first = next(iter(pipeline))
        assert len(first.frames) == min(most, LENGTH), size


def test_the_manifest_says_what_decoded_and_another_decoder_is_not_mixed_in(job):
    request, encoder, _ = job()
    label(request, encoder)
    manifest = LatentTable.open(request.output).manifest
    assert manifest.decoded_by == [pixel_source()] and "PyAV" in manifest.decoded_by[0]
    assert manifest.identity.video_backend == "pyav"
    other = replace(request, info=replace(request.info, video_backend="torchcodec"))
    with pytest.raises(UserError, match="video decoder: the folder has pyav, asked for is torchcodec"):
        label(other, encoder)
    # A table that was made before there were these entries.
    path = request.output / "manifest.json"
    old = json.loads(path.read_text())
    del old["decoded_by"], old["identity"]["video_backend"]
    path.write_text(json.dumps(old))
    again = LatentTable.open(request.output)
    assert again.manifest.decoded_by == [] and again.identity == manifest.identity
    assert label(request, encoder).frames == 0
    with pytest.raises(UserError, match="video decoder"):
        label(other, encoder)


def test_killed_at_any_moment_it_ends_with_the_same_bytes(job, tmp_path):
    request, encoder, _ = job(output="whole", vectors=True, shard_frames=1, batch_size=3)
    label(request, encoder)
    whole = content(request.output)
    left = []
    for number in range(1, 100):
        again = replace(request, output=tmp_path / str(number))
        killed = killed_before_write(number, lambda again=again: label(again, encoder))
        left.append(len(list(again.output.glob("shard-*"))))
        assert left[-1] == EPISODES or not (again.output / "manifest.json").exists()
        result = label(again, encoder)
        assert result.complete and result.frames + result.kept == EPISODES * LENGTH
        assert result.kept == left[-1] * LENGTH
        assert content(again.output) == whole
        if not killed:
            break
    assert left == sorted(left) and set(left) == set(range(EPISODES + 1)), "kills came after each of the shards"


def test_leftovers_of_a_kill_in_a_write_vanish(job):
    request, encoder, _ = job()
    request.output.mkdir()
    (request.output / ".shard-00000.safetensors.abc.tmp").write_bytes(b"half")
    label(request, encoder)
    assert not list(request.output.glob(".*"))


def test_ranks_share_the_work_and_the_last_one_finishes(job, tmp_path):
    request, encoder, _ = job(output="one")
    label(request, encoder)
    shared = replace(request, output=tmp_path / "shared")
    first = label(replace(shared, ranks=Ranks(1, 2)), encoder)
    assert not first.complete and first.missing_shards == 1
    with pytest.raises(UserError, match="not finished"):
        LatentTable.open(shared.output)
    last = label(replace(shared, ranks=Ranks(0, 2)), encoder)
    assert last.complete and first.frames + last.frames == EPISODES * LENGTH
    assert content(shared.output) == content(request.output)
    more = replace(request, output=tmp_path / "more")
    done = [label(replace(more, ranks=Ranks(rank, 5)), encoder) for rank in range(5)]
    assert [r.complete for r in done] == [False] * 4 + [True]
    assert content(more.output) == content(request.output)


def test_a_corrupt_video_is_one_error_that_names_file_and_episode(job, broken_root):
    request, encoder, _ = job(data=broken_root, shard_frames=1)
    with pytest.raises(BadVideoError) as caught:
        label(request, encoder)
    assert caught.value.episode > 0 and f"episode {caught.value.episode}" in str(caught.value)
    assert ".mp4" in str(caught.value)
    # What came before is kept, and --skip-bad goes on from there.
    result = label(replace(request, skip_bad=True), encoder)
    assert result.complete and result.kept == caught.value.episode * LENGTH


def test_what_was_labelled_of_an_episode_that_breaks_off_is_taken_back(job, monkeypatch):
    """Its first windows are with the encoder, or gathered for it, when the error comes."""
    monkeypatch.setattr(labelling, "CHUNK", 5)
    request, encoder, _ = job(batch_size=3, vectors=True)
    label(request, encoder)
    whole = LatentTable.open(request.output)
    frames = SequentialDecoder.frames

    def breaking(self, episodes, *, on_bad, **options):
        for chunk in frames(self, episodes, on_bad=on_bad, **options):
            if (chunk.episode, chunk.start) == (3, 15):
                on_bad(BadVideoError.of(request.output / "torn.mp4", 3, "torn"))
            elif chunk.episode != 3 or chunk.start < 15:
                yield chunk

    monkeypatch.setattr(SequentialDecoder, "frames", breaking)
    request, encoder, _ = job(output="broken", batch_size=3, vectors=True, skip_bad=True)
    assert [error.episode for error in label(request, encoder).bad] == [3]
    broken, index = LatentTable.open(request.output), np.arange(EPISODES * LENGTH)
    (codes, valid), (good_codes, good_valid) = broken.codes(index), whole.codes(index)
    hit = torch.from_numpy(index // LENGTH == 3)
    assert good_valid[hit].any() and not valid[hit].any() and not codes[hit].any()
    assert not broken.vectors(index)[hit].any()
    assert torch.equal(valid[~hit], good_valid[~hit]) and torch.equal(codes[~hit], good_codes[~hit])


def test_what_cannot_be_decoded_is_invalid_and_the_rest_is_not_touched(job, root, broken_root):
    request, encoder, _ = job()
    label(request, encoder)
    whole = LatentTable.open(request.output)
    request, encoder, _ = job(data=broken_root, output="broken", skip_bad=True)
    result = label(request, encoder)
    broken = LatentTable.open(request.output)
    bad = broken.manifest.bad_episodes
    assert sorted(e.episode for e in result.bad) == bad and 0 < len(bad) < EPISODES
    index = np.arange(EPISODES * LENGTH)
    (codes, valid), (good_codes, good_valid) = broken.codes(index), whole.codes(index)
    hit = torch.from_numpy(np.isin(index // LENGTH, bad))
    assert not valid[hit].any() and not codes[hit].any()
    assert torch.equal(valid[~hit], good_valid[~hit])
    # The first episode lies before the hole; what a decoder makes of pictures near it is its own affair.
    assert torch.equal(codes[:LENGTH], good_codes[:LENGTH])
    assert verify_table(request.output, broken_root).ok


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"laq_sha256": "6" * 64}, "quantizer"),
        (
            {"config": LAQConfig(image_size=(16, 24), patch_size=8, offset_seconds=0.2)},
            "offset in seconds: the folder has 0.3, asked",
        ),
        ({"vectors": True}, "continuous latents: the folder has None, asked for is 8"),
    ],
)
def test_labels_of_another_kind_are_not_mixed(job, changes, name):
    request, encoder, _ = job()
    label(request, encoder)
    for finished in (True, False):
        if not finished:
            (request.output / "manifest.json").unlink()
            (request.output / "shard-00001.safetensors").unlink()
        before = content(request.output)
        with pytest.raises(UserError, match=name):
            label(replace(request, **changes), encoder)
        assert content(request.output) == before


def test_progress_counts_every_frame(job):
    request, encoder, _ = job(shard_frames=1)
    seen = []
    label(request, encoder, progress=seen.append)
    total = EPISODES * LENGTH
    assert (seen[0].done, seen[-1].done, seen[-1].made) == (0, total, total)
    assert all(p.total == total and p.done <= total for p in seen)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    label(request, encoder, progress=seen.append)
    assert (seen[-1].done, seen[-1].made, seen[-1].rate) == (total, 0, 0.0)


def test_camera_and_place_have_good_defaults(root, small, tmp_path):
    info = read_dataset(None, root)
    small().save(tmp_path / "model", cameras=["observation.image", "wrist"])
    manifest = LAQ.from_checkpoint(tmp_path / "model").manifest
    two = replace(info, features=info.features | {"side": info.features["observation.image"]})
    assert choose_camera(two, manifest, None) == "observation.image"
    assert choose_camera(two, manifest, "side") == "side"
    assert choose_camera(two, manifest, "image") == "observation.image"
    with pytest.raises(UserError, match="did you mean 'image'"):
        choose_camera(two, manifest, "imgae")
    run = tmp_path / "run"
    (run / "checkpoints" / "000010" / "pretrained_model").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for place in (run, run / "checkpoints" / "000010" / "pretrained_model"):
        assert default_output(place, info, "observation.image") == run / "latents" / "squares"
    assert default_output(run, two, "side").name == "squares--side"
