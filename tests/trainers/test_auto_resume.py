"""`--resume auto` before anything is trained: where it begins, what it refuses, what it moves away."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make_dataset import make_dataset
from safetensors.numpy import save_file

from hlrp.config import LeRobotRun, load_config, to_yaml
from hlrp.errors import UserError
from hlrp.locks import FolderLock
from hlrp.runs import RunDirectory, list_runs
from hlrp_cli.train import _begin_or_go_on
from trainers import pushing
from trainers.auto_resume import find_start, set_aside
from trainers.run_data import with_absolute_paths


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "small", episodes=1, length=4)


def _run(root: Path | None, folder: Path | None, *overrides: str) -> LeRobotRun:
    flags = {"model.policy_type": "act", "data.root": root, "output_dir": folder}
    run = load_config(None, overrides, {k: (v, k) for k, v in flags.items() if v is not None}).config
    assert isinstance(run, LeRobotRun)
    return run


def _begun(run: LeRobotRun) -> Path:
    """The folder of a run that was killed before its first checkpoint."""
    assert run.output_dir is not None
    fields = {"trainer": "lerobot", "policy": "act", "steps": 20}
    RunDirectory.create(run.output_dir, config_yaml=to_yaml(with_absolute_paths(run)), **fields)
    (run.output_dir / "log.txt").write_text("it begins\n")
    return run.output_dir


def test_begins_where_nothing_is_or_a_claim_was_left(root: Path, tmp_path: Path) -> None:
    run = _run(root, tmp_path / "run")
    start = find_start(run)
    assert (start.path, start.directory, start.done) == (tmp_path / "run", None, None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".hlrp-lock").touch()
    with FolderLock(tmp_path / "other") as lock:
        names = [path.name for path in lock.folder.iterdir()]
    (tmp_path / "run" / ".hlrp-lock").rename(tmp_path / "run" / names[0])
    assert find_start(run).directory is None


def test_needs_a_folder_and_a_run_in_it(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing says which run to go on with") as refused:
        find_start(_run(root, None))
    assert refused.value.where == "--resume auto"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="not a run"):
        find_start(_run(root, tmp_path / "mine"))


def test_other_settings_are_refused_by_name_and_a_path_may_be_spelled_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _begun(_run(root, tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    spelled = _run(Path(os.path.relpath(root, tmp_path)), Path("run"), "trainer.steps=30")
    assert find_start(spelled).path == folder
    with pytest.raises(UserError) as refused:
        find_start(_run(root, folder, "trainer.learning_rate=0.5", "model.chunk_size=7"))
    assert "trainer.learning_rate is None there, 0.5 here" in str(refused.value)
    assert "chunk_size is None there, 7 here" in str(refused.value)


def test_a_dry_run_fetches_neither_data_nor_weights(root: Path, tmp_path: Path) -> None:
    """Asked as a dry run, the Hub is not: the tests' own is out of reach, and the real run says so."""
    folder = _begun(_run(root, tmp_path / "run"))
    may = ("allow_download=true",)
    assert find_start(_run(root, folder, *may), dry_run=True).path == folder
    for here, named in ((None, "data.repo_id=me/far-away"), (root, "model.init_from=me/far-away")):
        run = _run(here, folder, *may, named)
        with pytest.raises(UserError, match=r"a dry run fetches nothing|nothing of that name on the Hub was fetched"):
            find_start(run, dry_run=True)
        with pytest.raises(UserError, match=r"me/far-away.* cannot be fetched"):
            find_start(run)


def test_what_died_before_its_first_checkpoint_is_moved_away_whole(root: Path, tmp_path: Path) -> None:
    folder = _begun(_run(root, tmp_path / "run"))
    with FolderLock(folder):
        code = "import sys, pathlib; from trainers.auto_resume import set_aside; set_aside(pathlib.Path(sys.argv[1]))"
        other = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, capture_output=True, text=True)
        assert other.returncode == 1 and "another process is writing this folder" in other.stderr
    assert (folder / "run.json").is_file()
    set_aside(folder)
    assert not folder.exists()
    aside = tmp_path / "run.no-checkpoint-1"
    assert sorted(path.name for path in aside.iterdir()) == ["config.yaml", "log.txt", "run.json"]
    _begun(_run(root, folder))
    set_aside(folder)
    assert (tmp_path / "run.no-checkpoint-2" / "log.txt").read_text() == "it begins\n"
    # It is no run beside the one that was begun anew, as another seed would be.
    _begun(_run(root, folder))
    assert [run.path for run in list_runs(tmp_path)] == [folder]


def test_a_run_that_ended_before_its_last_step_is_done(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an early stop or a limit of time ends it; of more steps than it was asked for it is not, of fewer none is."""
    folder = _begun(_run(root, tmp_path / "run", "trainer.steps=20"))
    pretrained, state = (folder / "checkpoints" / "000012" / name for name in ("pretrained_model", "training_state"))
    for place, names in (
        (pretrained, ["config.json", "policy_preprocessor.json", "policy_postprocessor.json", "train_config.json"]),
        (state, ["training_step.json", "optimizer_param_groups.json"]),
    ):
        place.mkdir(parents=True)
        for name in names:
            (place / name).write_text("{}")
    for path in (pretrained / "model", state / "rng_state", state / "optimizer_state"):
        save_file({"x": np.zeros(4, np.float32)}, path.with_suffix(".safetensors"))
    shorter, same, longer = (_run(root, folder, f"trainer.steps={steps}") for steps in (10, 20, 30))
    for status, done in (("interrupted", False), ("finished", True)):
        RunDirectory.open(folder).update(status=status)
        start = find_start(same)
        assert start.directory is not None and (start.done is not None) == done
        with pytest.raises(UserError, match=r"trainer\.steps is 20 there, 10 here(.|\n)*trainer\.steps=20, or more"):
            find_start(shorter, dry_run=True)
    assert find_start(longer).done is None
    # With all its steps it is done when it was closed: a kill may have come among its last rollouts.
    pretrained.parent.rename(folder / "checkpoints" / "000020")
    for status, done in (("running", False), ("finished", True)):
        RunDirectory.open(folder).update(status=status)
        start = find_start(same)
        assert start.directory is not None and (start.done is not None) == done
    # Publishing it failed, or was not asked for: asked again, it is not ignored.
    published: list[tuple[Path, str]] = []

    def push(path: Path, repo_id: str) -> str:
        published.append((path, repo_id))
        return "a page"

    monkeypatch.setattr(pushing, "push_finished", push)
    result = _begin_or_go_on(same.model_copy(update={"push_to_hub": "me/it"}), dry_run=False)
    assert result is not None and result.published == "a page" and published == [(folder, "me/it")]
    # Made longer by `--resume RUN --steps 30`, which leaves its configuration as it was.
    RunDirectory.open(folder).update(steps=30)
    assert find_start(longer).done is not None, "an early stop ended that"
    assert find_start(same).done is not None, "the command that began it is not refused"
    with pytest.raises(UserError, match=r"trainer\.steps is 20 there, 10 here"):
        find_start(shorter)
