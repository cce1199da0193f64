"""Which parts of a video become episodes: captions, scenes and seconds. A long video is read once for all of them."""

import multiprocessing
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from index_videos import Kind, number_of, picture, write_video
from PIL import Image
from video_clips import (
    CLOSED,
    FRAMES,
    SIZE,
    captions,
    clip,
    content,
    numbers_of,
    pictures,
    run,
)

from hlrp.data.importing import ImportProgress, ImportRequest, frames, import_video
from hlrp.data.importing.clip import read_table
from hlrp.data.importing.sources import Source
from hlrp.data.importing.timeline import read_timeline


def test_captions_cut_at_key_frames_are_copied_and_elsewhere_encoded(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clip(source / "a/long.mp4", CLOSED, range(20))
    clip(source / "other.mp4")
    captions = tmp_path / "captions.csv"
    captions.write_text(
        "file,caption,start,end\nlong.mp4,push,0.4,1.2\na/long,pull,0.3,0.9\nlong,all of it,,\n"
        "long,end,1.6,2.0\nlong,half,0.4,0.7\n"
    )
    root = tmp_path / "dataset"
    result = run(source, root, captions=captions, task="wait")
    assert (result.copied, result.encoded) == (
        4,
        {"begins between key frames": 1, "ends inside a group of pictures": 1},
    )
    parts = [(0, 20), (3, 9), (4, 7), (4, 12), (16, 20)]
    assert numbers_of(root) == [*([*range(*part)] for part in parts), [*range(FRAMES)]]
    episodes = pq.read_table(next((root / "meta/episodes").rglob("*.parquet")))
    assert episodes["tasks"].to_pylist() == [[t] for t in ("all of it", "pull", "half", "push", "end", "wait")]


def test_a_copy_that_shows_other_frames_is_encoded_instead(tmp_path: Path) -> None:
    """A stream that is refreshed column by column: its files say that decoding can begin where it takes a second."""
    source = tmp_path / "source"
    clip(source / "refreshed.mp4", Kind(options={"crf": "8", "x264-params": "intra-refresh=1:keyint=5:bframes=0"}))
    option = captions(tmp_path, "file,caption,start,end\nrefreshed,look,0.5,1\n")
    assert run(source, tmp_path / "dataset", **option).encoded == {"the copy is not the same": 1}
    assert numbers_of(tmp_path / "dataset") == [list(range(5, 10))]


def test_scenes_and_seconds_split(tmp_path: Path) -> None:
    """Three scenes of one picture each; then episodes of at most half a second, which begin at key frames."""
    source = tmp_path / "source"
    write_video(source / "a.mp4", [0] * 8 + [0xFFFF] * 8 + [0] * 8, CLOSED, size=SIZE)
    run(source, tmp_path / "scenes", scene_cuts=True)
    assert [len(e) for e in numbers_of(tmp_path / "scenes")] == [8, 8, 8]
    result = run(source, tmp_path / "new" / "parts", max_seconds=0.5)
    assert [len(e) for e in numbers_of(tmp_path / "new" / "parts")] == [4] * 5 + [4]
    assert result.copied == 6


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_no_scene_holds_a_frame_of_another_at_whatever_rate(ending: str, tmp_path: Path) -> None:
    """A third of the frames of an even video, and of an uneven one; the cuts lie between two that are taken."""
    kind = Kind(times=lambda i: i / 30 + (0.012 * (i % 4 == 2) if ending == "mkv" else 0.0))
    write_video(tmp_path / f"a.{ending}", [0] * 31 + [0xFFFF] * 36 + [0] * 42, kind, size=SIZE)
    run(tmp_path / f"a.{ending}", tmp_path / "scenes", scene_cuts=True, fps=10)
    assert numbers_of(tmp_path / "scenes") == [[0] * 11, [0xFFFF] * 12, [0] * 13]


def test_scenes_of_pictures_split(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "shots", range(1))
    for number in range(1, 24):
        shutil.copy(folder / "frame-0.png", folder / f"frame-{number}.png")
    for number in range(8, 16):
        Image.fromarray(picture(0xFFFF)).resize((64, 48)).save(folder / f"frame-{number}.png")
    run(folder, tmp_path / "scenes", scene_cuts=True, fps=12)
    assert numbers_of(tmp_path / "scenes") == [[0] * 8, [0xFFFF] * 8, [0] * 8]


def _long(folder: Path, kind: str = "mp4") -> Path:
    """A video of two seconds with numbers beside it, which becomes episodes of 0.4 s."""
    clip(folder / f"source/long.{kind}", CLOSED, range(20))
    (folder / "source/long.csv").write_text("x\n" + "".join(f"{i}\n" for i in range(20)))
    return folder / "source"


def test_a_long_video_is_read_once_however_many_parts_it_has(tmp_path: Path) -> None:
    source = _long(tmp_path)
    watched = {reader.__code__: reader.__name__ for reader in (read_timeline, read_table)}
    read: list[str] = []

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in watched and Path(frame.f_locals["path"]).parent.samefile(source):
            read.append(watched[frame.f_code])

    sys.setprofile(watch)
    try:
        assert run(source, tmp_path / "dataset", max_seconds=0.4).episodes == 5
    finally:
        sys.setprofile(None)
    once = ["read_table", "read_timeline"]
    assert sorted(read) == sorted(once * 2), "to look at it, and to write its parts"


def test_a_long_video_without_times_is_decoded_once_however_many_parts_it_has(tmp_path: Path) -> None:
    """Nothing leads into the middle of it."""
    source = _long(tmp_path, "avi")
    decoded: list[int] = []

    def watch(frame: Any, event: str, given: Any) -> None:
        if event == "return" and frame.f_code is frames._decode.__code__ and given is not None:
            decoded.append(given[0])

    sys.setprofile(watch)
    try:
        result = run(source, tmp_path / "dataset", max_seconds=0.4)
    finally:
        sys.setprofile(None)
    assert (result.episodes, result.copied) == (5, 0)
    assert numbers_of(tmp_path / "dataset") == [[*range(i, i + 4)] for i in range(0, 20, 4)]
    assert decoded == [*range(20)]
    timeline = read_timeline(source / "long.avi")

    for picks in ([3, 4, 9], [9, 12], [12], [2, 2, 19], [0], [18, 19]):  # on, from where it ended, back, ...
        found = [*frames.source_frames(Source(source / "long.avi", "long"), timeline, np.array(picks))]
        assert [number for number, _ in found] == sorted({*picks})
        assert [number_of(image) for _, image in found] == sorted({*picks}), "that frame"


def test_parts_of_one_video_are_written_by_several_processes_to_the_same_bytes(tmp_path: Path) -> None:
    source = _long(tmp_path)
    processes: dict[str, int] = {}

    def count(progress: ImportProgress) -> None:
        processes[progress.phase] = max(processes.get(progress.phase, 0), len(multiprocessing.active_children()))

    request = ImportRequest(str(source), tmp_path / "apart" / "d", max_seconds=0.4, workers=3)
    request.output.parent.mkdir()
    import_video(request, count)
    assert processes == {"look": 0, "write": 3, "assemble": 0}
    (tmp_path / "here").mkdir()
    run(source, tmp_path / "here" / "d", max_seconds=0.4)
    assert content(tmp_path / "apart/d") == content(tmp_path / "here/d")
    assert numbers_of(tmp_path / "apart/d") == [[*range(i, i + 4)] for i in range(0, 20, 4)]
