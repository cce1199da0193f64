import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hlrp.errors import UserError
from hlrp.runs import (
    RunDirectory,
    RunManifest,
    list_checkpoints,
    new_run_path,
    resolve_pretrained,
    safetensors_problem,
)
from hlrp.runs.directory import check_writable


def _checkpoint(folder: Path) -> Path:
    pretrained, state = folder / "pretrained_model", folder / "training_state"
    pretrained.mkdir(parents=True)
    state.mkdir()
    for name in ("config.json", "policy_preprocessor.json", "policy_postprocessor.json", "train_config.json"):
        (pretrained / name).write_text("{}")
    save_file({"w": np.zeros((8, 8), np.float32)}, pretrained / "model.safetensors")
    for name in ("training_step.json", "optimizer_param_groups.json"):
        (state / name).write_text("{}")
    for name in ("rng_state.safetensors", "optimizer_state.safetensors"):
        save_file({"s": np.zeros(4, np.float32)}, state / name)
    return folder


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_every_truncation_of_weights_is_seen(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.arange(64, dtype=np.float32)}, path)
    assert safetensors_problem(path) is None
    path.write_bytes(path.read_bytes()[:keep])
    assert "truncated" in str(safetensors_problem(path))


def test_a_file_of_another_kind_is_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((4).to_bytes(8, "little") + b"oops" + bytes(32))
    assert safetensors_problem(path) == "model.safetensors is not a safetensors file"


def test_newest_complete_checkpoint_wins_and_broken_ones_say_why(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    _checkpoint(folder / "000010")
    _checkpoint(folder / "000020")
    torn = _checkpoint(folder / "000030") / "training_state" / "optimizer_state.safetensors"
    torn.write_bytes(torn.read_bytes()[:-4])
    (_checkpoint(folder / "000040") / "pretrained_model" / "config.json").unlink()
    (folder / "last").symlink_to("000040")
    (folder / ".000050.partial").mkdir()
    problems = {c.step: c.problem for c in list_checkpoints(folder)}
    assert problems[10] is None
    assert problems[20] is None
    assert "training_state: optimizer_state.safetensors is truncated" in str(problems[30])
    assert problems[40] == "config.json is missing"
    # A checkpoint whose optimizer state is torn cannot be resumed from, but its policy still loads.
    assert resolve_pretrained(tmp_path) == folder / "000030" / "pretrained_model"
    assert RunDirectory(tmp_path, RunManifest()).latest() == list_checkpoints(folder)[1]


@pytest.mark.parametrize("what", ["missing", "empty", "truncated"])
def test_nothing_to_load_is_one_clear_error(tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"
    if what != "missing":
        run.mkdir()
    if what == "truncated":
        weights = _checkpoint(run / "checkpoints" / "000010") / "pretrained_model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    expected = {
        "missing": "does not exist",
        "empty": "no checkpoint",
        "truncated": "000010: model.safetensors is truncated",
    }
    with pytest.raises(UserError, match=expected[what]):
        resolve_pretrained(run)


def test_metrics_rewind_drops_what_a_resumed_run_repeats_and_a_torn_line(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", config_yaml="", trainer="lerobot")
    rows = [json.dumps({"step": s, "loss": 1.0 / s}) for s in range(1, 6)]
    (run.path / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 6, "lo')
    assert [r["step"] for r in run.metrics()] == [1, 2, 3, 4, 5]
    run.rewind_metrics(3)
    assert (run.path / "metrics.jsonl").read_text() == "\n".join(rows[:3]) + "\n"


def test_fresh_runs_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = new_run_path(None, "act")
    first.mkdir(parents=True)
    second = new_run_path(None, "act")
    assert first.parent == second.parent == tmp_path / "outputs" / "act"
    assert first != second
    with pytest.raises(UserError, match="exists already"):
        new_run_path(first, "act")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is a file"):
        check_writable(file / "run")
    with pytest.raises(UserError, match="cannot write there"):
        check_writable(Path("/proc/hlrp/run"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
