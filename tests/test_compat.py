"""What is said of a LeRobot that this release does not work with."""

from pathlib import Path

import pytest
from command import assert_user_error, hlrp


@pytest.mark.parametrize(("version", "trainer"), [("0.6.0", "lerobot"), ("0.7.0", "lightning")])
def test_an_unsupported_lerobot_is_one_message(version: str, trainer: str, toy_root: Path, tmp_path: Path) -> None:
    """Another release is found first, as by a mix-up of environments; it is refused before anything is imported."""
    found = tmp_path / "site" / f"lerobot-{version}.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lerobot\nVersion: {version}\n")
    train = ["train", "--trainer", trainer, "--policy", "act", "--dataset-root", str(toy_root), "--dry-run"]
    done = hlrp(*train, env={"PYTHONPATH": str(found.parent)})
    assert_user_error(done, f"LeRobot {version} is not supported", "pip install 'lerobot>=0.6.1,<0.7'")
    assert hlrp(*train).code == 0
