"""The check that the tests notice broken code: its list fits the code, and it tells what is caught from what is not."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from check_mutants import Break, judge, read_list

ROOT = Path(__file__).resolve().parents[2]
BREAKS, _ = read_list(ROOT / "scripts" / "mutants.toml")


def test_every_break_fits_the_code_and_names_tests_that_are_there() -> None:
    assert len(BREAKS) >= 60
    for one in BREAKS:
        ast.parse(one.applied(ROOT), one.file)
        for test in one.tests:
            file, *names = test.split("::")
            text = (ROOT / file).read_text()
            assert all(f"def {name}(" in text or f"class {name}:" in text for name in names), test


def test_what_pytest_says_is_judged() -> None:
    assert judge(None, "") == ("caught", "took too long")
    assert judge(1, "...\nFAILED tests/a.py::test_b - assert 1\n") == ("caught", "tests/a.py::test_b")
    assert judge(0, "3 passed") == ("survived", "")
    for code in (2, 4, 5, -11):  # interrupted, no such test, none collected, crashed
        assert judge(code, "no tests ran")[0] == "error"


SUMS = """def add(a, b):
    total = a + b
    return total


def wait():
    return 0
"""
TEST = """import time
from sums import add, wait


def test_add():
    time.sleep(wait())
    assert add(2, 2) == 4
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two functions and one test, and four breaks of it."""
    root = tmp_path / "project"
    (root / "tests").mkdir(parents=True)
    (root / "sums.py").write_text(SUMS)
    (root / "tests" / "test_sums.py").write_text(TEST)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    breaks = [("a + b", "a - b"), ("a + b", "a * b"), ("return 0", "return 60"), ("total = a / b", "pass")]
    lines = [
        f'[[mutant]]\nfile = "sums.py"\nbefore = "{before}"\nafter = "{after}"\ntests = ["tests/test_sums.py"]\n'
        for before, after in breaks
    ]
    (root / "list.toml").write_text("\n".join(lines))
    return root


def test_caught_late_survived_and_gone_are_told_apart_and_kept(project: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "from pathlib import Path\n"
        "from check_mutants import main\n"
        f"sys.exit(main(['--list', 'list.toml', '--jobs', '2', '--limit', '4'], Path({str(project)!r})))\n"
    )
    command = [sys.executable, "-c", code]
    first = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=120)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "| sums.py | 4 | 2 |" in first.stdout
    assert "| sums.py | `a + b` | `a * b` | survived |" in first.stdout
    assert "| sums.py | `total = a / b` | `pass` | text not found once |" in first.stdout
    assert "2 of 4 breaks are caught: 50%." in first.stdout
    kept = json.loads((project / ".mutants.json").read_text()).values()
    assert {r["by"] for r in kept} == {"tests/test_sums.py::test_add", "took too long", ""}
    assert "error: sums.py holds 'total = a / b' 0 times instead of once" in first.stderr
    assert "total = a + b" in (project / "sums.py").read_text(), "the working tree is left alone"
    # A second time nothing is run again, but for what has changed.
    again = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=60)
    assert again.stdout.strip() == first.stdout[first.stdout.index("| file") :].strip()


def test_a_break_is_tried_again_when_its_file_or_tests_change(project: Path) -> None:
    one = Break("sums.py", "a + b", "a - b", ("tests/test_sums.py",))
    key = one.key(project)
    assert one.key(project) == key
    for name in ("sums.py", "tests/test_sums.py"):
        text = (project / name).read_text()
        (project / name).write_text(text + "\n")
        assert one.key(project) != key
        (project / name).write_text(text)
    with pytest.raises(ValueError, match="0 times instead of once"):
        Break("gone.py", "a", "b", ("t",)).applied(project)
