"""The documentation: it builds without a broken link or reference, and names files that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FOLDERS = (
    "hlrp",
    "hlrp_cli",
    "trainers",
    "lerobot_policy_felix_bundle",
    "scripts",
    "tests",
    "examples",
    "configs",
    "docs",
)


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    mkdocs = str(Path(sys.executable).with_name("mkdocs"))
    argv = [mkdocs, "build", "--strict", "--config-file", str(config), "--site-dir", str(site)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)


def test_documentation_and_api_reference_build_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "laq.html").read_text(encoding="utf8")
    assert 'id="hlrp.laq.model.LAQ.encode"' in page


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[gone](gone.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\nplugins: []\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert "gone.md" in done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./*<>-]*)`", page.read_text(encoding="utf8"))
    missing = [name for name in named if "<" not in name and not any(ROOT.glob(name.rstrip("/")))]
    assert missing == []


def test_the_architecture_picture_is_what_the_contracts_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "draw_architecture.py"), "--check"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
