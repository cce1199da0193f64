"""What `hlrp collect` recorded before cameras had names, and a policy of it, go on working in the same commands.

The archive was made by `scripts/make_old_files.py --recording` in a checkout of such a version.
"""

import tarfile
from pathlib import Path

import pytest
from command import hlrp, hlrp_in_turn

from hlrp.data import read_dataset

UNNAMED, NAMED = "observation.image", "observation.images.corner2"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, an episode of 32 pixels, and `act`, the run of a policy."""
    root = tmp_path_factory.mktemp("recording").resolve()
    with tarfile.open(Path(__file__).with_name("recording-unnamed-camera.tar.xz")) as archive:
        archive.extractall(root, filter="data")
    for path in root.rglob("*"):
        if path.suffix in (".json", ".yaml", ".jsonl") and "@ROOT@" in (text := path.read_text()):
            path.write_text(text.replace("@ROOT@", str(root)))
    assert read_dataset(None, root / "data").cameras == [UNNAMED]
    return root


def test_an_old_policy_and_its_recording_in_todays_simulator(files: Path, tmp_path: Path) -> None:
    flags = ["--replay", files / "data", "--episodes", "1", "--videos", "0", "--json", "--output", tmp_path / "eval"]
    done = hlrp("eval", files / "act", *flags, "env.episode_length=120")
    assert done.code == 0, done.err
    found = done.json()
    assert found["replay"]["reproduced"] is True
    assert found["env"]["config"]["camera_name"] == "corner2" and len(found["episodes"]) == 1
    assert done.err.count(f"camera {NAMED} is taken for {UNNAMED}: there is one on each side") == 1


def test_the_recording_gets_a_name_as_the_page_says(files: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf8")
    [line] = [line.split() for line in page.splitlines() if "hlrp data rename OLD" in line]
    (files / "OLD").symlink_to(files / "data")
    renamed, checked = hlrp_in_turn([line[1:], ["data", "check", "NEW", "--policy", "act"]], cwd=files)
    assert (renamed.code, checked.code) == (0, 0), renamed.err + checked.err
    assert read_dataset(None, files / "NEW").cameras == [NAMED]
