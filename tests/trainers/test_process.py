"""A child that is told to stop, and commands that are: real processes, none of them trains."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from own_signals import deliver

from trainers.lerobot.process import TrainingProcess

# Waits to be told to stop, and says what came.
CHILD = """
import signal, sys, time
def announce(number, frame):
    print("got", number, flush=True)
    sys.exit(128 + number)
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, announce)
print("ready", flush=True)
time.sleep(60)
"""

COMMAND = """
import signal, sys, time
from hlrp_cli import main
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
@main.app.command("wait")
def wait():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("closed", flush=True)
sys.argv = ["hlrp", "wait"]
main.run()
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_training_process_is_told_what_its_parent_is_told(number: signal.Signals) -> None:
    process = TrainingProcess([sys.executable, "-c", CHILD], {})
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line == "ready":
            deliver(number)

    before = signal.getsignal(number)
    assert process.run(on_line) == 128 + number
    assert lines == ["ready", f"got {int(number)}"]
    assert process.stopped_by == number
    assert signal.getsignal(number) == before


# One of two that train together: it ends as its variables say, or waits, is told to stop, and takes its time for that.
ONE_OF_TWO = """
import os, signal, sys, time
rank = os.environ["RANK"]
def stop(number, frame):
    print(rank, "got", number, flush=True)
    time.sleep(1)
    print(rank, "saved", flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
end = int(os.environ.get("END", "0"))
if end < 0:
    os.kill(os.getpid(), -end)
if end:
    sys.exit(end)
print("ready", rank, end=" " * 5000 + chr(10), flush=True)
time.sleep(60)
"""


def test_processes_that_train_together_are_all_told_to_stop_and_take_the_time_that_they_need() -> None:
    """Neither is ended from here; an agent above them would do so."""
    process = TrainingProcess([sys.executable, "-c", ONE_OF_TWO], {"RANK": "0"}, {"RANK": "1"})
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line.strip())
        if sorted(lines) == ["ready 0", "ready 1"]:
            assert [p.ppid() for p in map(psutil.Process, process.pids)] == [os.getpid()] * 2
            deliver(signal.SIGTERM)

    assert process.run(on_line) == 143
    assert sorted(lines[2:]) == ["0 got 15", "0 saved", "1 got 15", "1 saved"]
    assert (process.stopped_by, process.killed) == (15, None)


@pytest.mark.parametrize(("end", "killed"), [(3, None), (-9, (1, -9))])
def test_one_that_fails_ends_the_others(
    monkeypatch: pytest.MonkeyPatch, end: int, killed: tuple[int, int] | None
) -> None:
    monkeypatch.setattr("trainers.lerobot.process._GRACE_S", 1.0)
    ends = {"RANK": "1", "END": str(end)}
    process = TrainingProcess([sys.executable, "-c", ONE_OF_TWO], {"RANK": "0"}, ends)
    lines: list[str] = []
    assert process.run(lambda line: lines.append(line.strip())) == end
    assert (lines, process.killed) == (["ready 0"], killed)
    assert not any(map(psutil.pid_exists, process.pids))


def _command(*more: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", COMMAND, *more]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_every_command_closes_what_is_open_when_it_is_stopped(number: signal.Signals) -> None:
    process = _command()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (128 + number, "closed\n")
    assert "Traceback" not in err and len(err.splitlines()) <= 1


def test_under_nohup_a_command_outlives_the_terminal() -> None:
    process = _command("nohup")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "closed\n"
    assert process.returncode == 143


def test_the_demos_stages_find_their_modules_and_are_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hlrp_cli.demo import _run_command

    for name in ("hlrp", "hlrp_cli", "trainers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert _run_command(["runs", "list"]) == 0
    assert "no runs below outputs" in capfd.readouterr().out
