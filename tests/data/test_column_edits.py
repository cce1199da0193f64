"""Datasets that carry their codes, edited after they were labelled: what the codes were made of must be as it was."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from edits import copy_of, edit_column, edit_stats, episode_table, tables
from index_videos import TOP, WRIST, Kind, index_dataset, video_path, write_video
from make_labels import make_quantizer, make_table

from hlrp.config import load_config
from hlrp.data import read_dataset
from hlrp.errors import UserError
from hlrp.latents import LatentTable
from hlrp.latents.column import PROVENANCE, LatentColumn, column_problems, rows_of, write_column
from trainers.policy_checks import check_policy_run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 episodes in two files of each of two cameras, with the codes of one."""
    folder = tmp_path_factory.mktemp("labelled")
    plain = index_dataset(folder / "plain", Kind())
    table = make_table(plain, make_quantizer(folder / "laq", camera=WRIST), folder / "table", camera=WRIST)
    write_column(LatentTable.open(table), read_dataset(None, plain), folder / "codes", copy=True)
    return folder / "codes"


def _refused(root: Path) -> list[str]:
    """What a policy's dry run, a source of a mixture and `hlrp data check` say of the codes, once each."""
    info = read_dataset(None, root)
    keys = ["model.policy_type=hlrp_action_expert_latent", f"data.root={root}", "latents.source=precomputed"]
    run = load_config(None, keys).config
    found = [problem.message for problem in column_problems(info) if problem.fatal]
    for check in (lambda: check_policy_run(run, info), lambda: rows_of(None, info)):  # type: ignore[arg-type]
        try:
            check()
        except UserError as error:
            found.append(error.what)
    assert len(found) in (0, 3)
    return sorted(set(found))


def _later(root: Path, camera: str) -> None:
    edit_column(episode_table(root), f"videos/{camera}/from_timestamp", lambda at: at + 0.1 * (at > 0))


def test_codes_of_frames_that_have_changed_are_refused(labelled: Path, tmp_path: Path) -> None:
    assert _refused(labelled) == []
    edited = "the dataset was edited after its codes were written: "
    moved = copy_of(labelled, tmp_path / "moved")
    _later(moved, WRIST)
    assert _refused(moved) == [f"{edited}{WRIST} of its episodes lies elsewhere"]
    other = copy_of(labelled, tmp_path / "other")
    shutil.copy(video_path(other, TOP, 1), video_path(other, WRIST, 1))
    assert _refused(other) == [f"{edited}videos/{WRIST}/chunk-000/file-001.mp4 is other"]


def test_what_codes_do_not_depend_on_may_be_edited(labelled: Path, tmp_path: Path) -> None:
    root = copy_of(labelled, tmp_path / "edited")
    edit_stats(root, lambda stats: stats["action"].update(std=[2.0, 2.0]))
    for path in tables(root):
        edit_column(path, "action", lambda values: values * 2)
    _later(root, TOP)
    write_video(video_path(root, TOP, 0), list(range(8)), Kind())
    assert _refused(root) == []


def test_codes_of_the_episodes_that_are_here_are_read(labelled: Path, tmp_path: Path) -> None:
    root = copy_of(labelled, tmp_path / "part")
    tables(root)[1].unlink()
    for camera in (TOP, WRIST):
        video_path(root, camera, 1).unlink()
    assert _refused(root) == []
    whole, part = (LatentColumn(read_dataset(None, folder)) for folder in (labelled, root))
    for here, there in zip(part.codes(range(8)), whole.codes(range(8)), strict=True):
        assert here.equal(there)
    codes, valid = part.codes(range(8, 29))
    assert not codes.any() and not valid.any() and whole.codes(range(8, 29))[1].any()
    shutil.copy(video_path(root, TOP, 0), video_path(root, WRIST, 0))
    assert "file-000.mp4 is other" in _refused(root)[0]


def test_codes_of_an_older_version_are_taken_with_a_warning(
    labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_of(labelled, tmp_path / "older")
    said = json.loads((root / PROVENANCE).read_text())
    (root / PROVENANCE).write_text(json.dumps({key: said[key] for key in ("identity", "bad_episodes")}))
    _later(root, WRIST)
    with caplog.at_level(logging.WARNING):
        assert _refused(root) == []
    assert f"an older hlrp wrote the codes of {root}" in caplog.text
