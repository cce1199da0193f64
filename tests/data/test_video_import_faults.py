"""Sources that an import looks for, and videos that cannot be used: one message each, nothing half-written."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from index_videos import KINDS, Kind
from PIL import Image
from video_clips import FRAMES, SIZE, VP9, captions, clip, content, damage, numbers_of, pictures, run, sound_clip

from hlrp.data.importing import ImportRequest
from hlrp.data.importing.clip import Clip, read_table
from hlrp.data.importing.plan import make_plan
from hlrp.data.importing.sources import find_sources
from hlrp.errors import HlrpError, UserError


def _edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _make(name: str, write: Callable[[Path], Any]) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        clip(folder / "source/good.mp4")
        write(folder / "source" / name)
        return {}

    return make


def _captioned(text: str, name: str = "captions.csv") -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        clip(folder / "source/good.mp4")
        return captions(folder, text, name)

    return make


def _asked(**options: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {**_captioned("file,caption\ngood,look\n")(folder), **options}


def _cut(path: Path, kind: Kind, part: float) -> None:
    clip(path, kind, range(60))
    _edit(path, lambda data: data[: int(len(data) * part)])


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def _version_21(folder: Path) -> dict[str, Any]:
    clip(folder / "source/videos/good.mp4")
    (folder / "source/meta").mkdir()
    (folder / "source/meta/info.json").write_text('{"codebase_version": "v2.1"}')
    return {}


def _table(text: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        clip(folder / "source/good.mp4")
        (folder / "source/good.csv").write_text(text)
        return {}

    return make


def _two_tables(folder: Path) -> dict[str, Any]:
    clip(folder / "source/more.mp4")
    return _table("x\n" + "1\n" * FRAMES)(folder)


def _picture_gap(path: Path) -> None:
    pictures(path)
    (path / "frame-5.png").unlink()


def _picture_sizes(path: Path) -> None:
    pictures(path)
    Image.new("RGB", (10, 10)).save(path / "frame-5.png")


def _list(text: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        clip(folder / "source/good.mp4")
        (folder / "files.txt").write_text(text)
        return {"source": str(folder / "files.txt")}

    return make


def _nothing(folder: Path) -> dict[str, Any]:
    (folder / "source").mkdir()
    (folder / "source/notes.md").write_text("no video")
    return {}


def _latin_captions(folder: Path) -> dict[str, Any]:
    option = _captioned("")(folder)
    option["captions"].write_bytes("file,caption\ngood,geöffnet\n".encode("latin-1"))
    return option


def _inside(folder: Path) -> dict[str, Any]:
    clip(folder / "source/good.mp4")
    return {"output": folder / "source/dataset"}


def _there(folder: Path) -> dict[str, Any]:
    (folder / "dataset").mkdir()
    return _asked()(folder)


BROKEN: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "empty": (_make("bad.mp4", lambda p: p.write_bytes(b"")), "bad: the file is empty"),
    "text": (_make("bad.mp4", lambda p: p.write_text("hello\n" * 99)), "bad: it holds text, no video"),
    "bytes": (_make("bad.mp4", lambda p: p.write_bytes(bytes(range(256)) * 9)), "bad: it cannot be read as video"),
    "pointer": (
        _make("bad.mp4", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")),
        "git lfs pull",
    ),
    "cut mp4": (_make("bad.mp4", lambda p: _cut(p, KINDS["h264"], 0.6)), "its table of frames is not there"),
    "cut mkv": (_make("bad.mkv", lambda p: _cut(p, KINDS["h264"], 0.4)), "bad: it is cut off"),
    "cut webm": (_make("bad.webm", lambda p: _cut(p, VP9, 0.4)), "bad: it is cut off"),
    "sound": (_make("bad.mp4", lambda p: sound_clip(p, video=False)), "bad: it holds sound but no video"),
    "no frames": (_make("bad.mp4", _no_frames), "bad: it"),
    "other size": (_make("x.mp4", lambda p: clip(p, size=(32, 32))), "good is 48x64, x is 32x32"),
    "same name": (_make("good.mkv", clip), "two videos are called 'good'"),
    "picture missing": (_make("shots", _picture_gap), "picture 5 is missing"),
    "picture sizes": (_make("shots", _picture_sizes), "its pictures have different sizes"),
    "v2.1": (_version_21, "convert_dataset_v21_to_v30"),
    "nothing there": (_nothing, "no video and no folder of numbered pictures"),
    "no source": (lambda folder: {"source": str(folder / "none")}, "there is no such file or folder"),
    "mistyped source": (lambda f: _asked()(f) | {"source": str(f / "sourcce")}, "did you mean 'source'"),
    "empty list": (_list("\n"), "the list names no file"),
    "list of absent": (_list("source/none.mp4\n"), "line 1 names source/none.mp4"),
    "listed twice": (_list("source/good.mp4\nsource/good.mp4\n"), "two videos are called 'source/good'"),
    "output there": (_there, "the output exists already"),
    "output inside": (_inside, "the output lies inside the source"),
    "file in the way": (lambda f: {**_asked()(f), "output": f / "captions.csv/a/b"}, "this is no folder"),
    "camera": (_asked(camera="a/b"), "'a/b' is no name of a camera"),
    "odd size": (_asked(size=(47, 64)), "--size 47x64 is odd"),
    "rate": (_asked(fps=float("nan")), "--fps nan is out of range"),
    "only pictures": (lambda f: {"source": str(pictures(f / "source/shots").parent)}, "give it: --fps 30"),
    "caption of none": (_captioned("file,caption\ngod,look\n"), "did you mean 'good'"),
    "caption column": (_captioned("file,caption,from\ngood,look,1\n"), "column 'from' is unknown"),
    "caption empty": (_captioned("file,caption\ngood,\n"), "'caption' is missing or empty"),
    "end before start": (_captioned("file,caption,start,end\ngood,look,0.8,0.2\n"), "is not after the start"),
    "beyond the end": (_captioned("file,caption,start,end\ngood,look,0,9\n"), "good ends at 1.200 s"),
    "no second": (_captioned('[{"file": "good", "caption": "look", "start": "x"}]', "c.json"), "'start' is 'x'"),
    "caption torn": (_captioned('{"file": "good"', "c.jsonl"), "the captions cannot be read"),
    "no captions": (
        lambda f: {**_captioned("", "names.csv")(f), "captions": f / "nmes.csv"},
        "did you mean 'names.csv'",
    ),
    "captions no text": (lambda f: {**_asked()(f), "captions": f / "source"}, "give a file that can be read"),
    "captions latin-1": (_latin_captions, "write them as UTF-8"),
    "caption kind": (_captioned("file", "c.tsv"), "captions of the kind '.tsv' are unknown"),
    "rows": (_table("x\n1\n2\n"), "good.csv has 2 rows for 12 frames"),
    "cells": (_table("x\n" + "a\n" * FRAMES), "column 'x' of good.csv holds string"),
    "not finite": (_table("x\n" + "1\n" * 11 + "inf\n"), "no finite number in row 11"),
    "digits": (
        _table("x,t\n" + "".join(f"1,{1.7e9 + i / 10}\n" for i in range(FRAMES))),
        "column 't' of good.csv has more digits than float32, as which states are kept: 1700000000.0 and 1700000000.1",
    ),
    "digits of whole numbers": (
        _table("n\n" + "".join(f"{2**24 + i}\n" for i in (0, 1, 1, 2, 2, 2, 3, 4, 5, 5, 5, 6))),
        "16777216 and 16777217 in rows 0 and 1 would be one number",
    ),
    "name": (
        _make(os.fsdecode(b"\xc4rger.mp4"), clip),
        "\udcc4rger: its name, or that of a folder above it, is not UTF-8",
    ),
    "folder's name": (_make(os.fsdecode(b"\xd6/a.mp4"), clip), "\udcd6/a: its name, or that of"),
    "output's name": (lambda f: {**_asked()(f), "output": f / os.fsdecode(b"\xd6")}, "name would not be UTF-8"),
    "task no text": (_asked(task=os.fsdecode(b"\xf6ffnen")), "the task sentence is not UTF-8"),
    "caption no text": (
        _captioned('{"file": "good", "caption": "\\udcf6"}', "c.jsonl"),
        "'caption' holds half a character",
    ),
    "some tables": (_two_tables, "good x; more none"),
}


def test_sources_are_called_by_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/one.mp4", "b/two.MKV", "a.mp4", ".hidden.mp4", "b/notes.txt"):
        (tmp_path / "source" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "source" / name).touch()
    pictures(tmp_path / "source/b/shots", range(2))
    (tmp_path / "files.txt").write_text("# of today\nsource/b/two.MKV\n\nsource/b/shots\n")
    monkeypatch.chdir(tmp_path)

    def names(source: Path | str) -> list[str]:
        return [found.name for found in find_sources(str(source)).sources]

    assert names("source") == names(tmp_path / "source") == ["a", "b/one", "b/shots", "b/two"]
    assert names("source/*/*") == names(tmp_path / "source/*/*") == ["b/one", "b/shots", "b/two"]
    assert names("source/**/*.mp4") == ["a", "b/one"]
    assert names("files.txt") == ["source/b/shots", "source/b/two"]
    assert names("source/b/shots") == ["shots"]
    assert names("source/b/two.MKV") == ["two"]


def test_linked_folders_are_looked_through_but_not_in_a_circle(tmp_path: Path) -> None:
    clip(tmp_path / "disk/more/b.mp4")
    clip(tmp_path / "source/a.mp4")
    (tmp_path / "source/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/more/up").symlink_to(tmp_path / "disk")
    assert [s.name for s in find_sources(str(tmp_path / "source")).sources] == ["a", "linked/more/b"]


def test_pictures_that_are_called_as_the_videos_beside_them_are_no_episode(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", range(3))
    for number in range(2):
        clip(source / f"frame-{number}.mp4")
    (source / "frame-2.png").rename(source / "other.png")
    result = run(source, tmp_path / "dataset")
    assert result.episodes == 2
    assert result.left_out == [("source", "2 pictures, called as the videos beside them")]


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_used_is_one_message_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    make, said = BROKEN[kind]
    options = {"source": tmp_path / "source", "output": tmp_path / "dataset"} | make(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError) as error:
        run(options.pop("source"), options.pop("output"), **options)
    assert said in str(error.value)
    assert error.value.where and error.value.fix
    assert content(tmp_path) == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_whose_name_is_not_utf_8_can_be_left_out(tmp_path: Path) -> None:
    """It is not looked at either. With names in UTF-8 all is well."""
    name = os.fsdecode(b"\xc4rger.mp4")
    clip(tmp_path / "source/Ärger.mp4")
    (tmp_path / "source" / name).touch()
    result = run(tmp_path / "source", tmp_path / "dataset", skip_bad=True)
    assert [name for name, _ in result.left_out] == [Path(name).stem] and result.episodes == 1
    assert '"source": "Ärger"' in (tmp_path / "dataset/meta/hlrp_import.jsonl").read_text(encoding="utf8")


def test_damage_in_the_middle_is_found_when_it_is_encoded_and_can_be_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clip(source / "good.mp4")
    clip(source / "worse.mp4", KINDS["10-bit"], range(40))
    damage(source / "worse.mp4")
    with pytest.raises(UserError, match="worse: "):
        run(source, tmp_path / "dataset")
    assert run(source, tmp_path / "dataset", skip_bad=True).left_out[0][0] == "worse"
    assert numbers_of(tmp_path / "dataset") == [list(range(FRAMES))]


@pytest.mark.parametrize(
    ("rates", "asked", "fps"),
    [
        (["30", "25", "30"], None, Fraction(30)),
        (["30000/1001"], None, Fraction(30000, 1001)),
        (["30"], 29.97, Fraction(30000, 1001)),
        (["30"], 14.5, Fraction(29, 2)),
        (["30"], 12.1, Fraction(121, 10)),
        (["30"], 14.9, Fraction(149, 10)),
        (["30"], 23.98, Fraction(24000, 1001)),
        (["30"], 23.976, Fraction(24000, 1001)),
        (["30"], 59.94, Fraction(60000, 1001)),
        (["30"], 24.0, Fraction(24)),
        (["25", "30"], None, Fraction(30)),
    ],
)
def test_the_rate_is_that_of_most_files(rates: list[str], asked: float | None, fps: Fraction) -> None:
    clips = [Clip(f"{i}", 30, rate, True, 1.0, SIZE, (0, 0), ()) for i, rate in enumerate(rates)]
    assert make_plan(ImportRequest("x", Path("y"), fps=asked), clips, {}).fps == fps


def test_what_moves_smoothly_or_stands_still_has_digits_enough(tmp_path: Path) -> None:
    """Some changes are lost on the way to rest, and all of one that trembles, but nothing that matters."""
    t = np.arange(300)
    moved = {"angle": 90 - 30 * np.exp(-t / 3), "still": 0.5 + 1e-9 * np.sin(t), "count": t}
    rows = "".join(",".join(map(repr, row)) + "\n" for row in zip(*(c.tolist() for c in moved.values()), strict=True))
    (tmp_path / "a.csv").write_text(",".join(moved) + "\n" + rows)
    changes = np.diff(moved["angle"].astype(np.float32)) == 0
    assert changes.any() and not changes.all()
    assert np.array_equal(read_table(tmp_path / "a.csv"), np.stack([*moved.values()], 1).astype(np.float32))


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    clip(tmp_path / "source/a.mp4")

    sync = os.fsync

    def full(descriptor: int) -> None:
        if "/clips/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HlrpError, match="no space left on the device"):
        run(tmp_path / "source", tmp_path / "dataset")
    monkeypatch.undo()
    assert run(tmp_path / "source", tmp_path / "dataset").episodes == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset", "source"]
