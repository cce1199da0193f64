"""Imports that are stopped, and that go on to the same bytes."""

import shutil
from pathlib import Path

import pytest
from index_videos import Kind
from interruptions import killed_before_write
from video_clips import FRAMES, clip, content, damage, pictures, run

from hlrp.data.importing import ImportProgress, ImportRequest, import_video
from hlrp.errors import Interrupted, UserError


def test_other_settings_do_not_continue_an_unfinished_import(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "dataset"
    clip(source / "a.mp4")
    assert killed_before_write(12, lambda: run(source, output))
    with pytest.raises(UserError, match="fps: begun with '10', now '5'"):
        run(source, output, fps=5)
    clip(source / "b.mp4")
    with pytest.raises(UserError, match="files: begun with"):
        run(source, output)
    (source / "b.mp4").unlink()
    assert run(source, output).episodes == 1


def test_killed_anywhere_the_same_command_continues_to_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in "abc":
        clip(source / f"{name}.mp4")
    pictures(source / "d", range(3))
    whole = tmp_path / "whole" / "dataset"
    whole.parent.mkdir()
    run(source, whole)
    output = tmp_path / "dataset"
    number, kills = 1, 0
    while killed_before_write(number, lambda: run(source, output)):
        if output.exists():  # complete, and only what it was made of was not removed yet
            break
        number, kills = number + 7, kills + 1
    assert kills >= 3
    assert content(output) == content(whole)


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Four clips, the second of which has to be encoded and can be damaged unseen; and the dataset that they become."""
    source = tmp_path_factory.mktemp("mended") / "source"
    for name in "acd":
        clip(source / f"{name}.mp4", numbers=range(100 * ord(name), 100 * ord(name) + FRAMES))
    clip(source / "b.mp4", Kind(pix_fmt="yuv420p10le", options={"crf": "8", "g": "1", "bf": "0"}), range(60))
    run(source, source.parent / "dataset")
    return source, content(source.parent / "dataset")


@pytest.mark.parametrize("done", [1, 2, 3])
@pytest.mark.parametrize("lost", [False, True])
def test_a_file_that_is_mended_while_an_import_stands_still_gets_its_own_rows(
    done: int, lost: bool, mended: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    """Stopped after some videos were moved to their places, which are other ones with an episode more among them."""
    source, output = tmp_path / "source", tmp_path / "dataset"
    shutil.copytree(mended[0], source)
    damage(source / "b.mp4")

    def stop(progress: ImportProgress) -> None:
        if (progress.phase, progress.done) == ("assemble", done):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        import_video(ImportRequest(str(source), output, skip_bad=True, workers=1), stop)
    moved = sorted((tmp_path / "dataset.partial/videos").rglob("*.mp4"))
    assert len(moved) == done
    if lost:  # as earlier versions have written over one
        moved[-1].unlink()
    shutil.copy(mended[0] / "b.mp4", source / "b.mp4")
    assert run(source, output, skip_bad=True).left_out == []
    assert content(output) == mended[1]


def test_processes_do_not_change_a_byte_and_what_is_bad_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in "ac":
        clip(source / f"{name}.mp4")
    (source / "b.mp4").write_bytes(b"")
    for workers in (1, 2):
        (tmp_path / f"by-{workers}").mkdir()
        result = run(source, tmp_path / f"by-{workers}" / "d", skip_bad=True, workers=workers)
        assert result.left_out == [("b", "the file is empty")]
    assert content(tmp_path / "by-1" / "d") == content(tmp_path / "by-2" / "d")
