"""A trainer of another package, installed by its entry point, as the command runs it; it counts and trains nothing."""

from pathlib import Path
from typing import Any

import pytest
import typer

from hlrp.config import OtherRun, load_config
from hlrp.errors import Interrupted, UserError
from hlrp.runs import RunDirectory
from hlrp_cli.launching_training import submit_training
from hlrp_cli.train import _begin_or_go_on, _execute, _resume
from trainers.registry import check_keys

COUNTER = """
from hlrp.runs import DatasetRecord
from trainers import BaseTrainer
from trainers.lifecycle import RunLifecycle

class Counter(BaseTrainer):
    trainer_type = "count"
    obeys = frozenset({"output_dir", "trainer.steps", "trainer.stop", "model.policy_type", "data.root"})

    def fit(self, *, run):
        lifecycle = RunLifecycle(quiet=True)
        fields = {"policy": "act", "dataset": DatasetRecord(), "steps": run.trainer.steps, "command": []}
        lifecycle.create(run.output_dir, run, **fields)
        return self._count(lifecycle, run, 0)

    def resume(self, directory, run, *, steps=None):
        assert steps == run.trainer.steps
        lifecycle = RunLifecycle(quiet=True)
        checkpoint = directory.latest()
        lifecycle.reopen(directory, checkpoint, dataset=DatasetRecord(), steps=steps)
        return self._count(lifecycle, run, checkpoint.step)

    @staticmethod
    def dry_run(run, *, resume=None, steps=None):
        return f"count to {run.trainer.steps}"

    def _count(self, lifecycle, run, done):
        path = lifecycle.directory.path
        for step in range(done + 1, run.trainer.steps + 1):
            lifecycle.training_row({"step": step, "loss": 1.0})
            state = path / "checkpoints" / f"{step:06d}" / "training_state"
            state.mkdir(parents=True)
            (state / "lightning.json").write_text("{}")
            (state / "lightning.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
            if done == 0 and step == getattr(run.trainer, "stop", None):
                raise lifecycle.interrupted(15)
        return lifecycle.finish()
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "counter-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "counter.py").write_text(COUNTER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hlrp.trainers]\ncount = counter:Counter\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()


def _run(*overrides: str) -> OtherRun:
    keys = ["trainer_type=count", "model.policy_type=act", "data.root=data", "output_dir=run", *overrides]
    run = load_config(None, keys).config
    assert isinstance(run, OtherRun)
    return run


def _again(**flags: Any) -> Any:
    given = {f"trainer.{key}": (value, f"--{key}") for key, value in flags.items()}
    return _resume(Path("run"), given, [], None, dry_run=False)


def test_a_key_that_it_does_not_act_on_is_refused_before_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    check_keys(_run("trainer.stop=1"))
    for dry_run in (True, False):
        with pytest.raises(UserError, match=r"data\.episodes has no effect with the trainer 'count'"):
            _execute(_run("trainer.steps=2", "data.episodes=[0]"), dry_run=dry_run)
        with pytest.raises(UserError, match=r"unknown key 'trainer\.stap' of the trainer 'count'") as refused:
            _execute(_run("trainer.steps=2", "trainer.stap=1"), dry_run=dry_run)
        assert refused.value.fix == "did you mean 'stop' or 'steps'?"
    assert not Path("run").exists()
    _execute(_run("trainer.steps=2"), dry_run=True)
    assert capsys.readouterr().out == "count to 2\n"


def test_processes_that_it_does_not_know_of_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (place | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"trainer\.devices has no effect with the trainer 'count'"):
        _execute(_run("trainer.steps=2"), dry_run=True)


def test_a_run_that_is_complete_is_not_started_again_and_remembers_its_new_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _execute(_run("trainer.steps=2"), dry_run=False)
    before = RunDirectory.open(Path("run")).manifest
    with pytest.raises(UserError, match="the run is complete: it has 2 of 2 steps"):
        _again()
    assert RunDirectory.open(Path("run")).manifest == before
    assert before.final_metrics == {"step": 2, "loss": 1.0}
    result = _again(steps=3)
    assert (result.metrics["step"], RunDirectory.open(Path("run")).manifest.steps) == (3, 3)
    with pytest.raises(UserError, match="the run is complete: it has 3 of 3 steps"):
        _again()
    saved = load_config(Path("run/config.yaml")).config
    assert (saved.data.root, saved.output_dir) == (tmp_path / "data", tmp_path / "run")


def test_auto_begins_goes_on_and_leaves_alone_what_is_done() -> None:
    asked = _run("trainer.steps=3", "trainer.stop=2")
    with pytest.raises(Interrupted, match="interrupted: checkpoint 000002 is saved"):
        _begin_or_go_on(asked, dry_run=False)
    result = _begin_or_go_on(asked, dry_run=False)
    assert result is not None and result.metrics["step"] == 3
    written = Path("run/run.json").stat().st_mtime_ns
    done = _begin_or_go_on(asked, dry_run=False)
    assert done is not None and done.metrics == result.metrics
    assert Path("run/run.json").stat().st_mtime_ns == written
    with pytest.raises(UserError, match=r"trainer\.stop is 2 there, 1 here"):
        _begin_or_go_on(_run("trainer.steps=3", "trainer.stop=1"), dry_run=False)


def test_a_batch_job_of_it_is_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    # Typer keeps a stream that outlives what pytest captures in a test.
    monkeypatch.setattr(typer, "echo", said.append)
    submit_training(_run("trainer.steps=2"), ["train", "--trainer", "count"], None, dry_run=True, as_json=False)
    assert "--resume auto" in said[0]
    with pytest.raises(UserError, match=r"data\.episodes has no effect"):
        submit_training(_run("data.episodes=[0]"), ["train"], None, dry_run=True, as_json=False)
