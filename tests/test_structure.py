"""What the project promises about itself: rooms, fast help, offline commands."""

import subprocess
import sys
from pathlib import Path

import pytest
from command import InTurn, hlrp, hlrp_in_turn

MOST_MODULES = 220
ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    [],
    ["train"],
    ["sweep"],
    ["eval"],
    ["serve"],
    ["client"],
    ["rollout"],
    ["export"],
    ["laq-report"],
    ["precompute-latents"],
    ["latents"],
    ["latents", "verify"],
    ["fit-actions"],
    ["pseudo-label"],
    ["push"],
    ["data", "check"],
    ["data", "report"],
    ["data", "rename"],
    ["collect"],
    ["import-video"],
    ["demo"],
    ["config"],
    ["config", "show"],
    ["config", "validate"],
    ["config", "schema"],
    ["runs"],
    ["runs", "list"],
    ["runs", "show"],
    ["runs", "compare"],
    ["report"],
    ["parity"],
    ["policies"],
    ["doctor"],
    ["make-tiny-backbone"],
    ["slurm"],
    ["slurm", "template"],
]


def test_imports_point_down_the_table_of_rooms() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def helps() -> dict[str, InTurn]:
    """`--help` of every command, one after another in one process: a heavy import shows from its command on."""
    done = hlrp_in_turn([[*command, "--help"] for command in COMMANDS])
    return {" ".join(command): found for command, found in zip(COMMANDS, done, strict=True)}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_answers_and_imports_nothing_heavy(command: list[str], helps: dict[str, InTurn]) -> None:
    found = helps[" ".join(command)]
    assert found.code == 0, found.err
    assert f"Usage: hlrp {' '.join(command)}".strip() in found.out
    assert not found.heavy, found.heavy


def test_help_imports_few_modules() -> None:
    """What half a second is made of, counted: a time would be the machine's. Python alone imports about 30."""
    code = "import sys; from hlrp_cli.main import app; app(['train', '--help'], standalone_mode=False)"
    counted = f"{code}; sys.stderr.write(str(len(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", counted], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr) < MOST_MODULES


def test_help_tests_cover_every_command() -> None:
    from hlrp_cli.main import COMMANDS as REGISTERED

    assert set(REGISTERED) == {c[0].replace("-", "_") for c in COMMANDS if c}


def test_an_unknown_command_is_one_message() -> None:
    done = hlrp("trian")
    assert done.code == 2
    assert "No such command 'trian'" in done.err
    assert "Traceback" not in done.err
