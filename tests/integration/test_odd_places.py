"""Commands in odd places: folders with modules of our names, umlauts on an ASCII terminal, terminals that close."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import assert_user_error, hlrp, hlrp_argv
from lerobot_runs import TINY_ACT, train_args

from hlrp.runs import RunDirectory

TOY = Path(__file__).parents[1] / "trainers" / "lightning_toy.py"
POOL = """
import operator, pathlib, sys
from hlrp.sim import pool
if __name__ == "__main__":
    pool.run_apart(operator.call, ("found",), pathlib.Path(sys.argv[1]), print)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an umlaut, and modules of this project's names and of what its children import."""
    folder = tmp_path_factory.mktemp("odd") / "größe"
    for name in ("hlrp", "hlrp_cli", "trainers", "lerobot", "torch", "multiprocessing"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the {name} of the current folder')")
    return folder


@pytest.mark.slow
def test_a_lerobot_run_without_numbers_in_an_odd_folder(toy_root: Path, hostile: Path) -> None:
    """Its process, and the data worker that spawns, find their own modules; what is no number ends it with one word."""
    args = train_args(toy_root, Path("läufe/eins"), "act", 40, *TINY_ACT, "--lr", "1e30", workers=1)
    keys = ["trainer.log_freq=1", "trainer.save_freq=20", "trainer.max_nonfinite_steps=4"]
    done = hlrp(*args, *keys, cwd=hostile, env={"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"})
    assert done.code == 1, done
    assert "the loss was not a finite number for 4 steps in a row, from step 2 on" in done.err
    assert "there is no checkpoint" in done.err
    assert done.err.count("warning:") == 1 and "Traceback" not in done.err
    run = hostile / "läufe" / "eins"
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml", "log.txt", "metrics.jsonl", "run.json"]
    manifest = json.loads((run / "run.json").read_text(), parse_constant=pytest.fail)
    assert manifest["status"] == "failed" and "for 4 steps" in manifest["reason"]
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (run / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["loss"] > 0 and [row["loss"] for row in rows[1:]] == [None] * 3


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_python_that_writes_names_in_ascii_is_refused(utf8: str, tmp_path: Path) -> None:
    """Tables would not find the files of a folder with an umlaut, sound as they are."""
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8}
    done = hlrp("report", tmp_path / "läufe", env=env)
    assert_user_error(done, "set PYTHONUTF8=1" if utf8 == "0" else f"{tmp_path / 'läufe'} does not exist")


def test_recording_processes_find_their_modules(hostile: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(POOL)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "log")], cwd=hostile, capture_output=True, text=True, check=False
    )
    assert done.stdout == "found\n", done.stderr


def test_an_ascii_terminal_shows_paths_and_errors(hostile: Path) -> None:
    run = hostile / "läufe" / "zwei"
    RunDirectory.create(run, config_yaml="", trainer="lightning", policy="äct", final_metrics={"loss": 0.5})
    env = {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    shown = hlrp("runs", "list", "läufe", cwd=hostile, env=env)
    assert shown.code == 0, shown.err
    assert "zwei" in hlrp("runs", "show", run, cwd=hostile, env=env).out
    assert_user_error(hlrp("runs", "show", "größer", cwd=hostile, env=env), "no such run folder")


def test_a_list_of_runs_is_whole_on_a_narrow_terminal_and_beside_a_damaged_run(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 70) / ("b" * 70)
    RunDirectory.create(long, config_yaml="", trainer="lightning", policy="act", started="2026-01-02T03:04:05")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "run.json").write_text("[1]")
    (long / "checkpoints" / "²").mkdir(parents=True)
    master, slave = os.openpty()
    argv = ["stty", "cols", "80"]
    subprocess.run(argv, stdin=slave, check=False)
    code = subprocess.run(hlrp_argv("runs", "list", tmp_path), stdout=slave, stderr=subprocess.PIPE, check=False)
    os.close(slave)
    lines = os.read(master, 4096).decode().replace("\r\n", "\n").splitlines()
    os.close(master)
    assert (code.returncode, len(lines)) == (0, 2), (code, lines)
    assert lines[1].split()[-1] == str(long)
    assert code.stderr.decode().count("warning:") == 1 and str(damaged) in code.stderr.decode()
    found = hlrp("runs", "list", tmp_path, "--json")
    assert [run["path"] for run in json.loads(found.out)] == [str(long)]
    assert_user_error(hlrp("runs", "show", damaged), "run.json cannot be read", str(damaged))


def test_an_output_that_is_a_file_or_a_link_to_nothing_is_one_message(toy_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert_user_error(hlrp("demo", "--quick", "--output", tmp_path / "file"), "is a file")
    assert_user_error(hlrp("demo", "--quick", "--output", tmp_path / "link"), "link to something that is not there")
    train = ["train", "--model", "laq", "--dataset-root", toy_root, "--steps", "1", "--output-dir"]
    assert_user_error(hlrp(*train, tmp_path / "link"), "link to something that is not there")
    assert_user_error(hlrp(*train, tmp_path / "file" / "run"), "is a file")
    assert_user_error(hlrp("make-tiny-backbone", tmp_path / "link"), "link to something that is not there")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_a_run_whose_terminal_is_closed_saves(tmp_path: Path) -> None:
    """The terminal goes away under the run, which can print nothing any more."""
    out = tmp_path / "run"
    settings = {"output_dir": str(out), "steps": 100_000, "log_freq": 1, "device": "cpu", "net": {"noise": False}}
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, str(TOY), json.dumps(settings)],
        env=os.environ | {"PYTHONPATH": str(TOY.parents[2])},
        preexec_fn=lambda: os.login_tty(slave),  # noqa: PLW1509 - a terminal of its own, as a shell has
    )
    os.close(slave)
    metrics, end = out / "metrics.jsonl", time.monotonic() + 120
    while not metrics.is_file() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None and time.monotonic() < end
        os.set_blocking(master, False)
        try:
            os.read(master, 1 << 16)
        except BlockingIOError:
            time.sleep(0.02)
    os.close(master)
    assert process.wait(timeout=60) != 0
    directory = RunDirectory.open(out)
    latest = directory.latest()
    assert (directory.manifest.status, directory.manifest.reason) == ("interrupted", "stopped by signal 1")
    assert latest is not None and latest.step >= 3
