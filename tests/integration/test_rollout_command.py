"""`hlrp rollout` as a person runs it: a simulated arm as a plugin, keys on a terminal, lines of a pipe, Ctrl-C."""

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import assert_user_error, hlrp_argv, hlrp_in_turn

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
from arm import LATENT, record, save_policy

DEPLOY = Path(__file__).parents[1] / "deploy"
PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"


class Lab:
    """A dataset of the arm, policies for it, and the arm installed as its package would be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = record(folder / "wave")
        self.act = save_policy(folder / "act", self.root)
        self.other = save_policy(folder / "other", self.root, seed=3)
        self.latent = save_policy(folder / "latent", self.root, LATENT)
        site = folder / "site" / "lerobot_robot_simarm-1.0.dist-info"
        site.mkdir(parents=True)
        (site / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot_robot_simarm\nVersion: 1.0\n")
        self.path = os.pathsep.join([str(DEPLOY), str(site.parent)])
        self.journal = folder / "journal"
        self.arm = [f"--robot.calibration_dir={folder}", f"--robot.journal={self.journal}", "--device", "cpu"]
        self.arm += ["--robot.type=simarm", "--return-seconds", "0.1"]

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Lab(tmp_path_factory.mktemp("lab"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", made.path)
        yield made


def commands_of_the_page() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf8").partition("## Trials on a robot")[2].partition("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^    (hlrp .*)$", text, re.MULTILINE)]


def shortened(words: list[str], names: dict[str, str | Path], lab: Lab) -> list[str | Path]:
    """A command of the page for the simulated arm, with few short trials."""
    found: list[str | Path] = [names.get(word, word) for word in words[1:] if not word.startswith("--robot.")]
    for flag in ("--episodes", "--seconds"):
        if flag in found:
            del found[found.index(flag) : found.index(flag) + 2]
    return [*found, *lab.arm, "--episodes", "2", "--seconds", "0.4"] if found[0] == "rollout" else found


def test_the_page_from_trials_to_a_comparison_and_every_mistake_is_one_message(lab: Lab) -> None:
    page = commands_of_the_page()
    one, compare, blind, chunks = page
    series = lab.folder / "blind"
    runs: dict[str, str | Path] = {"RUN": lab.act, "OTHER": lab.other, "SERIES": series}
    runs["OTHER_SERIES"] = series / "compared"
    # First what needs most of LeRobot: one process does all, and leaves out what its first policy does not use.
    story = [
        ([*shortened(chunks, {"RUN": lab.latent}, lab), "--output", lab.folder / "chunks"], "\ns\n\ns"),
        (shortened(one, runs, lab), "\nf\n\nnonsense\nsuccess\n"),
        ([*shortened(blind, runs, lab), "--output", series, "--json"], "\ns\n\nf\n\nd\n\ns\n\nf\n"),
        (shortened(compare, runs, lab), ""),
        ([*shortened(compare, runs, lab), "--episodes", "3"], ""),
        (["runs", "show", lab.act], ""),
    ]
    usual = ["rollout", lab.act, *lab.arm]
    discovered = ["--robot.discover_packages_path=lerobot_robot_simarm"]
    mistakes: list[tuple[list[str | Path], list[str]]] = [
        (
            [*usual, *discovered, "--robot.joints=[elbow,shoulder,wrist]"],
            [
                "the robot and the policy do not fit, and the robot has not moved",
                "joints: the action has its joints in another order",
                "robot:  3: elbow.pos, shoulder.pos, wrist.pos",
                "policy: 3: shoulder.pos, elbow.pos, wrist.pos",
                "--allow-mismatch joints",
            ],
        ),
        (
            [*usual, "--robot.degrees=true"],
            ["units: the robot seems to report degrees, the data are in radians", "57.3"],
        ),
        ([*usual, "--robot.names=[front]"], ["cameras: the robot has no observation.images.wrist", "front 48x48"]),
        ([*usual, "--robot.size=32"], ["another size", "front 32x32", "front 48x48"]),
        ([*usual, "--fps", "10"], ["10 steps/s (--fps)", "50 steps/s"]),
        ([*usual, "--inference.type=rtc"], ["policy 'act' does not do real-time chunking"]),
        (
            ["rollout", lab.latent, *lab.arm, "--inference.type=rtc", "--inference.rtc.execution_horizon=130"],
            ["an execution horizon of 130 steps is longer than the policy's chunk of 100"],
        ),
        ([*usual, "--robot.colour=red"], ["LeRobot refuses the robot's flags", "colour"]),
        ([*usual, "--robot.names=[side]", "--rename-map", "observation.images.side=x"], ["no input 'x'"]),
        ([*usual, "--dataset-root", lab.folder / "act"], ["holds a policy, not a dataset", "--dataset-root"]),
        (["rollout", lab.act], ["there is no --robot.type", "koch_follower"]),
        (["rollout", lab.act, "--robot.type=so101_folower"], ["no robot 'so101_folower'", "'so101_follower'"]),
        (["rollout", lab.act, "--robot.type=so101_follower"], ["port"]),
        ([*usual, "--robot.type=simarm"], ["--robot.type is given twice"]),
        ([*usual, "--seed", "3"], ["--seed has no effect without --against"]),
        ([*usual, "--allow-mismatch", "unit"], ["there is no mismatch 'unit'", "'units'"]),
        ([*usual, "--token-file", "x"], ["--token-file has no effect without an address"]),
        (["rollout", "ws://127.0.0.1:1", *lab.arm[:2], *lab.arm[4:]], ["no policy server answers"]),
        (["rollout", "ws://127.0.0.1:1", *lab.arm], ["--device is up to the server"]),
        (["rollout", lab.folder / "nowhere", *lab.arm], ["does not exist"]),
        ([*usual, "--output", series], ["of another series"]),
    ]
    # What is allowed is a warning; there is no line to answer the first question with.
    allowed = [*usual, "--fps", "40", "--allow-mismatch", "fps", "--output", lab.folder / "allowed"]
    typed = [text for _, text in story] + [""] * (len(mistakes) + 1)
    done = hlrp_in_turn([*(args for args, _ in story), allowed, *(args for args, _ in mistakes)], typed=typed)

    chunked, first, compared, again, idle, shown = done[: len(story)]
    assert first.code == 0, first.err
    assert "'nonsense' is none of s, f, d" in first.err and "trial 2 of 2" in first.err
    assert re.search(r"wave +1/2 +50 % +9 to 91 %", first.out)
    (results,) = (lab.act / "rollout").glob("*/results.json")
    saved = json.loads(results.read_text())
    assert [(e["index"], e["success"]) for e in saved["episodes"]] == [(0, False), (1, True)]
    assert f"results  {results}" in first.out and str(results) in shown.out

    assert compared.code == 0, compared.err
    found = compared.json()
    assert found["comparison"]["pairs"] == 2 and found["folder"] == str(series)
    assert found["series"]["compared"]
    both = [json.loads((f / "results.json").read_text()) for f in (series, series / "compared")]
    assert sum(row["series"]["discarded"] for row in both) == 1
    assert sum(row["overall"]["successes"] for row in both) == 2
    assert again.code == 0, again.err
    assert f"against {series / 'compared'}:" in again.out and "2 pairs" in again.out
    assert_user_error(idle, "--episodes has no effect on results that are there already")
    assert chunked.code == 0, chunked.err
    assert json.loads((lab.folder / "chunks" / "results.json").read_text())["inference"] == "rtc"

    ended = done[len(story)]
    assert ended.code == 1 and "standard input ended before the series did" in ended.err, ended.err
    assert "warning: allowed: the rate is not that of the data" in ended.err
    assert not (lab.folder / "allowed").exists()
    for (_, mentions), refusal in zip(mistakes, done[len(story) + 1 :], strict=True):
        assert_user_error(refusal, *mentions)
    lines = lab.lines()
    assert lines.count("connect") == lines.count("disconnect") and lines[-1] == "disconnect"


def test_keys_of_a_terminal_and_ctrl_c(lab: Lab, tmp_path: Path) -> None:
    """A key ends a trial as what it says; Ctrl-C lets the arm go and keeps what has ended."""
    lab.journal.unlink(missing_ok=True)
    argv = hlrp_argv("rollout", lab.act, *lab.arm, "--episodes", "3", "--output", tmp_path / "series")
    terminal, theirs = pty.openpty()
    with subprocess.Popen(argv, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        screen = ""

        def wait_for(text: str) -> None:
            nonlocal screen
            end = time.monotonic() + 120
            while text not in screen:
                assert time.monotonic() < end and process.poll() is None, screen
                if select.select([terminal], [], [], 0.1)[0]:
                    screen += os.read(terminal, 4096).decode()
            screen = screen.partition(text)[2]

        def moved(count: int) -> None:
            end = time.monotonic() + 60
            while sum(line.startswith("action") for line in lab.lines()) < count:
                assert time.monotonic() < end, lab.lines()
                time.sleep(0.02)

        try:
            wait_for("trial 1 of 3")
            os.write(terminal, b"x\n")
            wait_for("'x' is none of enter, space, q")
            wait_for("runs;")
            moved(5)
            os.write(terminal, b"S")
            wait_for("success")
            wait_for("trial 2 of 3")
            os.write(terminal, b" ")
            moved(len(lab.lines()) + 5)
            os.write(terminal, b"\n")
            wait_for("how did it go?")
            os.write(terminal, b"f")
            wait_for("failure")
            wait_for("trial 3 of 3")
            os.write(terminal, b"\n")
            moved(len(lab.lines()) + 5)
            process.send_signal(signal.SIGINT)
            wait_for("interrupted: 2 trials are kept")
            assert process.wait(60) == 130
        finally:
            process.kill()
            os.close(terminal)
    assert lab.lines()[-1] == "disconnect"
    saved = json.loads((tmp_path / "series" / "results.json").read_text())
    assert [e["success"] for e in saved["episodes"]] == [True, False]
    assert not [p for p in (tmp_path / "series").iterdir() if p.name != "results.json"]
