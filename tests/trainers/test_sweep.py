"""`hlrp sweep`: from values and seeds to runs, and from their folders to a table."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from command import assert_user_error, hlrp, hlrp_argv
from own_signals import deliver

from hlrp.errors import Interrupted, UserError
from hlrp.runs import RunDirectory
from hlrp_cli.sweep import sweep
from trainers.sweep import Outcome, SweptRun, divided, execute, expand


def test_commas_in_brackets_and_quotes_divide_nothing() -> None:
    assert divided("1,2") == ["1", "2"]
    assert divided("[a,b],{c: [1,2]}") == ["[a,b]", "{c: [1,2]}"]
    assert divided("'0-9,12',\"a,b\"") == ["'0-9,12'", '"a,b"']
    assert divided("one") == ["one"]


def test_every_combination_has_a_folder_and_a_command(tmp_path: Path) -> None:
    runs = expand("few.yaml", ["trainer.learning_rate=1e-3,1e-4", "data.cameras=[a,b]"], "0-1", tmp_path)
    assert [run.path.name for run in runs] == [
        "learning_rate=1e-3,seed=0",
        "learning_rate=1e-3,seed=1",
        "learning_rate=1e-4,seed=0",
        "learning_rate=1e-4,seed=1",
    ]
    assert runs[1].overrides == ("trainer.learning_rate=1e-3", "data.cameras=[a,b]", "trainer.seed=1")
    assert runs[1].shown() == (
        "hlrp train --config few.yaml trainer.learning_rate=1e-3 'data.cameras=[a,b]' trainer.seed=1 "
        f"--output-dir {tmp_path}/learning_rate=1e-3,seed=1 --resume auto"
    )


@pytest.mark.parametrize(
    ("overrides", "seeds", "mention"),
    [
        ([], None, "nothing is swept"),
        (["trainer.steps=5"], None, "nothing is swept"),
        (["trainer.steps=5,5"], None, "trainer.steps has a value twice: '5'"),
        (["trainer.learning_rate=1e-3,1e-4,0.0001"], None, "a value twice: as '1e-4' and as '0.0001'"),
        (["data.cameras=[a,b],['a', b]"], None, "a value twice: as"),
        ([], "0,1,0", "trainer.seed has a value twice: '0'"),
        (["trainer.seed=0,1"], "0-1", "given too"),
        ([], "4-0", "backwards"),
        (["trainer.steps=1,2"], "0-9999", "20000 runs"),
        (["data.root=/a/b,/a_b"], None, "same folder"),
        (["output_dir=o", "trainer.steps=1,2"], None, "a folder of its own"),
    ],
)
def test_what_is_no_sweep_is_refused(overrides: list[str], seeds: str | None, mention: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=mention):
        expand(None, overrides, seeds, tmp_path)


def test_a_mistake_is_told_before_anything_begins(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    refused = hlrp("sweep", "model.kind=laq", "trainer.stepps=1,2", "--output-dir", out)
    assert_user_error(refused, "stepps", "steps")
    idle = hlrp("sweep", "model.kind=laq", "slurm.partition=gpu", "--seeds", "0,1", "--output-dir", out, "--dry-run")
    assert_user_error(idle, "slurm has no effect when the training runs here")
    assert not out.exists()


@pytest.mark.parametrize(
    ("jobs", "needed", "seen", "each", "told"),
    [
        (2, [1, 1], [1, 1], 1, None),
        (2, [2, 1, 0], [2, 1, 3], 1, "2 runs at a time share 3 x cuda; with --jobs 1 each has its own"),
        (6, [1] * 6, [1] * 6, 2, "6 runs at a time share 3 x cuda; with --jobs 3 each has its own"),
        (1, [1], [3], 1, None),
        (2, [4, 4], [3, 3], 2, None),
    ],
)
def test_runs_at_a_time_see_gpus_of_their_own(
    jobs: int,
    needed: list[int],
    seen: list[int],
    each: int,
    told: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script in place of the command says which GPUs it sees, and waits for those that are to run beside it."""
    script, at_once = tmp_path / "python", min(jobs, len(needed))
    script.write_text(
        '#!/bin/sh\nfor last; do case "$last" in */run*) : > "$last.begun"; esac; done\necho "$CUDA_VISIBLE_DEVICES"\n'
        f"for _ in $(seq 100); do [ $(ls {tmp_path} | grep -c begun) -ge {at_once} ] && exit; sleep 0.1; done; exit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8a7f,2")
    runs = [SweptRun(tmp_path / f"run{i}", None, (), gpus=count) for i, count in enumerate(needed)]
    lines: list[str] = []
    assert not execute(runs, jobs=jobs, tell=lines.append).failed
    found = [(tmp_path / f"{run.path.name}.txt").read_text().strip().split(",") for run in runs]
    assert [len(names) for names in found] == seen
    used = Counter(name for names, count in zip(found, needed, strict=True) if count for name in names)
    assert max(used.values()) == each
    assert [line for line in lines if "share" in line] == ([told] if told else [])


def test_a_run_takes_the_gpus_that_its_settings_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def taking(runs: list[SweptRun], **options: object) -> Outcome:
        taken.extend(run.gpus for run in runs)
        return Outcome()

    monkeypatch.setattr("trainers.sweep.execute", taking)
    for asked in ("trainer.device=cuda", "trainer.devices=2", "trainer.device=cuda:1", "trainer.device=cpu"):
        sweep(["model.kind=laq", "data.root=/d", asked], seeds="0", jobs=2, output_dir=tmp_path)
    assert taken == [1, 2, 0, 0]


def test_a_signal_while_a_run_is_started_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    runs = [SweptRun(tmp_path / f"run{i}", None, ()) for i in range(2)]
    begun = time.monotonic()
    with pytest.raises(Interrupted) as stopped:
        execute(runs, jobs=1, tell=lambda line: None if "ended" in line else deliver(signal.SIGTERM))
    assert stopped.value.exit_code == 143 and time.monotonic() - begun < 30
    assert not (tmp_path / "run1.txt").exists(), "no other one is begun"


@pytest.mark.slow
def test_a_sweep_is_stopped_goes_on_and_ends_with_a_table(toy_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    sizes = ["model.kind=laq", "model.preset=tiny", "model.image_size=24", "model.codebook_size=8"]
    data = [f"data.root={toy_root}", "data.num_workers=0", "data.offset_seconds=0.1", "trainer.device=cpu"]
    lengths = ["trainer.steps=300", "trainer.batch_size=2", "model.quantizer=fsq,vq"]
    command = ["sweep", *sizes, *data, *lengths, "--seeds", "0,3", "--jobs", "2", "--output-dir", str(out), "--json"]
    process = subprocess.Popen(hlrp_argv(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun = out / "quantizer=fsq,seed=0" / "metrics.jsonl"
    end = time.monotonic() + 200
    while not begun.is_file() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    first = RunDirectory.open(begun.parent)
    assert first.manifest.status == "interrupted" and first.latest() is not None
    done = hlrp(*command, timeout=600)
    assert done.code == 0, done.err
    rows = done.json()
    assert [(row["settings"], len(row["runs"]), row["unfinished"]) for row in rows] == [
        ({"model.quantizer": "fsq"}, 2, 0),
        ({"model.quantizer": "vq"}, 2, 0),
    ]
    assert all(row["scores"]["loss"]["low"] < row["scores"]["loss"]["mean"] for row in rows)
    started = [json.loads((run / "run.json").read_text())["started"] for run in sorted(out.glob("*/"))]
    again = hlrp(*command, timeout=600)
    assert again.json() == rows
    assert [json.loads((run / "run.json").read_text())["started"] for run in sorted(out.glob("*/"))] == started
    compared = hlrp("runs", "compare", out, "--metric", "loss")
    assert compared.code == 0 and compared.out.splitlines()[0].split() == ["model.quantizer", "runs", "loss"]
    shorter = hlrp(*(part.replace("=300", "=200") for part in command), timeout=600)
    assert (shorter.code, shorter.out) == (1, ""), "these are not the numbers of 200 steps"
    assert "4 of 4 runs failed" in shorter.err and "trainer.steps is 300 there, 200 here" in shorter.err
