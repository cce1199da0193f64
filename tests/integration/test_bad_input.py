"""Mistakes in what was asked of `hlrp train`: one message that names the place, exit code 2, nothing written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import InTurn, assert_user_error, hlrp, hlrp_in_turn, instead
from make_dataset import make_dataset

from hlrp.errors import UserError
from trainers import LeRobotTrainer


@pytest.fixture(scope="module", autouse=True)
def _catalog() -> None:
    """The list of policies is there after the first command of an installation; mistakes are then found at once."""
    subprocess.run(
        [sys.executable, "-c", "from hlrp.catalog import policy_catalog; policy_catalog()"],
        check=True,
        capture_output=True,
    )


def _train(root: Path | str, out: Path | str, *more: str) -> list[str]:
    base = ["train", "--policy", "act", "--dataset-root", str(root), "--output-dir", str(out), "--steps", "2"]
    return instead([*base, "--device", "cpu"], more)


CASES = {
    "unknown policy": (["--policy", "atc"], ["unknown policy 'atc'", "did you mean 'act'"]),
    "unknown trainer": (["--trainer", "lerobt"], ["lerobt", "lerobot"]),
    "unknown key": (["trainer.stepz=5"], ["trainer.stepz", "steps"]),
    "override without a value": (["trainer.steps"], ["trainer.steps"]),
    "wrong type": (["trainer.batch_size=many"], ["batch_size", "many"]),
    "out of range": (["trainer.batch_size=0"], ["batch_size", "0"]),
    "field LeRobot does not have": (["model.dim_modle=8"], ["dim_modle", "did you mean 'dim_model'"]),
    "field of a wrong type": (["model.chunk_size=long"], ["chunk_size", "'long'", "int"]),
    "episode that does not exist": (["--episodes", "7"], ["[7]", "the dataset has 2"]),
    "unknown device": (["--device", "gpu"], ["device", "gpu"]),
}


@pytest.fixture(scope="module")
def mistakes(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, InTurn], Path]:
    """All of `CASES` in one process, and the folder that none of them may write to."""
    folder = tmp_path_factory.mktemp("mistakes")
    commands = [_train(toy_root, folder / str(i), *more) for i, (more, _) in enumerate(CASES.values())]
    return dict(zip(CASES, hlrp_in_turn(commands), strict=True)), folder


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_message(case: str, mistakes: tuple[dict[str, InTurn], Path]) -> None:
    done, folder = mistakes[0][case], mistakes[1]
    assert_user_error(done, *CASES[case][1])
    assert not list(folder.iterdir())
    assert done.out == ""


NO_DATA = {
    "policy": ["--policy", "act"],
    "dry run": ["--policy", "act", "--dry-run"],
    "lightning": ["--policy", "act", "--trainer", "lightning"],
    "laq": ["--model", "laq"],
    "foundation": ["--model", "foundation"],
    "resume auto": ["--policy", "act", "--resume", "auto"],
    "resume auto, lightning": ["--model", "laq", "--resume", "auto"],
}


def test_no_dataset_is_one_message(tmp_path: Path) -> None:
    commands = [["train", *more, "--steps", "2", "--output-dir", str(tmp_path / "run")] for more in NO_DATA.values()]
    for done in hlrp_in_turn(commands):
        assert_user_error(done, "there is nothing to train on: no dataset is given", "--dataset-root DIR")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="there is nothing to train on"):
        LeRobotTrainer(steps=2).fit(policy_type="act", output_dir=tmp_path / "run")


def test_a_gpu_that_is_not_there(toy_root: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = hlrp(*_train(toy_root, tmp_path / "run", "--device", "cuda"))
    assert_user_error(done, "device 'cuda'", "--device cpu")
    assert not (tmp_path / "run").exists()


def test_yaml_syntax_error_names_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("trainer_type: lerobot\nmodel: {policy_type: act\n")
    assert_user_error(hlrp("train", "-c", file), str(file), ":3")


UNUSABLE = {
    "missing": ["there is no dataset folder"],
    "no dataset": ["is not a LeRobotDataset"],
    "no camera": ["no camera", "observation.state"],
    "no action": ["no feature 'action'", "observation.image"],
    "old format": ["format v2.1"],
    "torn metadata": ["cannot be read"],
}


def _unusable(kind: str, toy_root: Path, root: Path) -> Path:
    if kind == "no dataset":
        root.mkdir()
    elif kind == "no camera":
        make_dataset(root, episodes=1, length=4, camera=None)
    elif kind == "no action":
        make_dataset(root, episodes=1, length=4, action=False)
    elif kind != "missing":
        shutil.copytree(toy_root / "meta", root / "meta")
        info = root / "meta" / "info.json"
        text = info.read_text()
        info.write_text(text.replace("v3.0", "v2.1") if kind == "old format" else text[: len(text) // 2])
    return root


def test_data_that_cannot_be_trained_on(toy_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    roots = [_unusable(kind, toy_root, tmp_path / kind) for kind in UNUSABLE]
    for done, mentions in zip(hlrp_in_turn([_train(root, out) for root in roots]), UNUSABLE.values(), strict=True):
        assert_user_error(done, *mentions)
    assert not out.exists()


def test_a_hub_name_is_not_fetched_behind_the_users_back(tmp_path: Path) -> None:
    done = hlrp("train", "--policy", "act", "--dataset", "lerobot/pusht", "--output-dir", tmp_path / "run")
    assert_user_error(done, "'lerobot/pusht' is not on this machine", "--allow-download")


def test_an_output_folder_that_exists_is_left_alone(toy_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "precious.txt").write_text("keep")
    assert_user_error(hlrp(*_train(toy_root, out)), "exists already", str(out))
    assert [p.name for p in out.iterdir()] == ["precious.txt"]


def test_no_right_to_write(toy_root: Path) -> None:
    assert_user_error(hlrp(*_train(toy_root, "/proc/hlrp/run")), "cannot write there", "/proc/hlrp/run")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB without a free byte; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("no right to mount a small file system here")
    try:
        with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_space(toy_root: Path, full_disk: Path) -> None:
    done = hlrp(*_train(toy_root, full_disk / "run"))
    assert_user_error(done, "No space left", str(full_disk / "run"))
    assert [p.name for p in full_disk.iterdir()] == ["filler"]


def test_resume_of_a_run_without_a_checkpoint(toy_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert_user_error(hlrp("train", "--resume", run), "no such run folder")
    run.mkdir()
    assert_user_error(hlrp("train", "--resume", run), "not a run", "run.json")
    (run / "run.json").write_text(json.dumps({"schema_version": 1, "status": "failed", "steps": 40}))
    config = f"trainer_type: lerobot\nmodel: {{policy_type: act}}\ndata: {{root: {toy_root}}}\n"
    (run / "config.yaml").write_text(config)
    assert_user_error(hlrp("train", "--resume", run), "no complete checkpoint")
    weights = run / "checkpoints" / "000020" / "pretrained_model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    (weights.parent / "config.json").write_text("{}")
    weights.write_bytes(bytes(100))
    assert_user_error(hlrp("train", "--resume", run), "no complete checkpoint", "000020", "model.safetensors")
    assert_user_error(hlrp("train", "--resume", run, "--lr", "1"), "--lr cannot be changed", "--init-from")


def test_init_from_nowhere(toy_root: Path, tmp_path: Path) -> None:
    done = hlrp(*_train(toy_root, tmp_path / "run", "--init-from", str(tmp_path / "nowhere")))
    assert_user_error(done, "nowhere", "--init-from")


@pytest.mark.parametrize(
    "command", ["interrupted", "lambda: typer.main.get_command(app)"], ids=["before a command runs", "in a command"]
)
def test_ctrl_c_is_said(command: str) -> None:
    code = (
        "import signal, typer, hlrp_cli.main as cli\n"
        "def interrupted() -> None: signal.raise_signal(signal.SIGINT)\n"
        "app = typer.Typer()\n"
        "app.command()(interrupted)\n"
        f"cli.command = {command}\n"
        "cli.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
