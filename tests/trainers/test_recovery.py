"""Runs whose `run.json` was damaged: their checkpoints are still gone on from, and what was damaged is kept."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hlrp.config import LeRobotRun, LightningRun, load_config, to_yaml
from hlrp.data.dataset_info import read_dataset
from hlrp.errors import UserError
from hlrp.runs import RunDirectory, list_runs
from trainers.auto_resume import find_start
from trainers.lerobot.trainer import plan_resume
from trainers.lifecycle import RunLifecycle
from trainers.recovery import open_to_resume
from trainers.run_data import describe_data

sys.path.insert(0, str(Path(__file__).parent))
import lightning_toy as toy
from lightning_runs import fit, rows

from trainers.lightning.trainer import LightningTrainer

HALF = b'{"schema_version": 1, "status": "runn'
DAMAGED = [HALF, b"", b"\xff\xfe\x00", b"[1]", b"null", b'"text"', b'{"warnings": 3}', b'{"schema_version": "x"}']


def _lerobot_run(path: Path, root: Path, *more: str) -> tuple[RunDirectory, LeRobotRun]:
    """One with a whole checkpoint of step 20 of 70, as far as a resume looks at it before training."""
    keys = ["model.policy_type=act", "trainer_type=lerobot", f"data.root={root}", f"output_dir={path}", *more]
    run = load_config(None, ["trainer.steps=40", *keys]).config
    assert isinstance(run, LeRobotRun)
    dataset = describe_data([read_dataset(None, root)])
    made = RunDirectory.create(path, config_yaml=to_yaml(run), trainer="lerobot", policy="act", dataset=dataset)
    weights, state = (path / "checkpoints/000020" / name for name in ("pretrained_model", "training_state"))
    for folder in (weights, state):
        folder.mkdir(parents=True)
    for name in ("config", "policy_preprocessor", "policy_postprocessor"):
        (weights / f"{name}.json").write_text('{"type": "act"}')
    (weights / "train_config.json").write_text('{"steps": 70}')
    for name in ("training_step", "optimizer_param_groups"):
        (state / f"{name}.json").write_text("{}")
    for file in (weights / "model", state / "rng_state", state / "optimizer_state"):
        file.with_suffix(".safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return made, run


@pytest.mark.parametrize("content", DAMAGED)
def test_a_run_of_lerobot_goes_on_by_its_settings_and_its_checkpoint(
    content: bytes, toy_root: Path, tmp_path: Path
) -> None:
    made, run = _lerobot_run(tmp_path / "run", toy_root, "data.filter.idle=true")
    known = made.manifest.dataset
    (tmp_path / "run" / "run.json").write_bytes(content)
    start = find_start(run)
    assert start.directory is not None and start.directory.latest() is not None
    directory = open_to_resume(tmp_path / "run")
    with directory.sole_writer():
        plan = plan_resume(directory, run, None)
        assert (plan.checkpoint.step, plan.steps) == (20, 70)
        assert "HLRP_SHUFFLING" not in plan.command.environment, "by the rules of today"
        (damage,) = (line for line in plan.warnings if "run.json" in line)
        assert "cannot be read" in damage and "kept as run.json.damaged" in damage
        RunLifecycle(plan.warnings, quiet=True).reopen(directory, plan.checkpoint, dataset=plan.dataset)
    found = RunDirectory.open(tmp_path / "run").manifest
    assert (found.status, found.trainer, found.policy, found.seed) == ("running", "lerobot", "act", run.trainer.seed)
    assert found.dataset.fingerprint == known.fingerprint and found.dataset.filter is not None
    assert found.resumed[0].step == 20 and damage in found.warnings
    assert (tmp_path / "run" / "run.json.damaged").read_bytes() == content


def test_a_run_of_lightning_goes_on_to_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    fit(tmp_path / "whole", steps=6, save_freq=2, log_freq=1, device="cpu")
    out = tmp_path / "runs" / "damaged"
    fit(out, steps=4, save_freq=2, log_freq=1, device="cpu")
    (out / "run.json").write_bytes(HALF)
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\n[1]\n" + rb'{"step": 4, "lo')
    problems: list[str] = []
    fit(tmp_path / "runs" / "other", steps=1, device="cpu")
    listed = list_runs(tmp_path / "runs", lambda error: problems.append(str(error)))
    assert [run.path.name for run in listed] == ["other"] and len(problems) == 1
    run: Any = load_config(out / "config.yaml").config
    assert isinstance(run, LightningRun)
    LightningTrainer().resume(open_to_resume(out), run, steps=6, module=toy.Net(), datamodule=toy.Data())
    assert rows(out) == rows(tmp_path / "whole")
    weights = "checkpoints/000006/training_state/lightning.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    manifest = RunDirectory.open(out).manifest
    assert (manifest.status, manifest.checkpoints) == ("finished", ["000002", "000004", "000006"])
    assert [damage for damage in manifest.warnings if "run.json cannot be read" in damage]


def test_what_cannot_go_on_is_refused_and_left_as_it_is(toy_root: Path, tmp_path: Path) -> None:
    made, _ = _lerobot_run(tmp_path / "run", toy_root)
    file = made.path / "run.json"
    file.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UserError, match="newer hlrp"):
        open_to_resume(made.path)
    file.write_bytes(HALF)
    (made.path / "checkpoints").rename(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"run\.json cannot be read: JSONDecodeError"):
        open_to_resume(made.path)
    assert sorted(path.name for path in made.path.iterdir()) == ["config.yaml", "run.json"]
    file.unlink()
    with pytest.raises(UserError, match="not a run"):
        open_to_resume(made.path)


def test_a_run_of_lerobot_that_was_killed_among_its_last_rollouts_is_closed_and_names_them(
    toy_root: Path, tmp_path: Path
) -> None:
    directory, run = _lerobot_run(tmp_path / "run", toy_root, "trainer.eval_freq=10", "env.type=pusht")
    directory.update(status="running", steps=20)
    plan = plan_resume(directory, run, None)
    assert (plan.checkpoint.step, plan.steps) == (20, 20)
    (missing,) = plan.warnings
    assert missing.startswith("the rollouts at step 20 are missing")
    assert missing.endswith(f": hlrp eval {tmp_path}/run/checkpoints/000020")
    (directory.path / "metrics.jsonl").write_text('{"step": 20, "loss": 0.5}\n{"step": 20, "pc_success": 50.0}\n')
    assert plan_resume(directory, run, None).warnings == []
    with pytest.raises(UserError, match="the run is complete: it has 20 of 10 steps"):
        plan_resume(directory, run, 10)
    directory.update(status="finished")
    with pytest.raises(UserError, match="the run is complete: it has 20 of 20 steps"):
        plan_resume(directory, run, None)
