"""`hlrp train --trainer lerobot` as a user runs it: the installed command on real files."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from command import assert_user_error, hlrp
from interruptions import assert_gone, family_of, start, wait_for_rows
from lerobot_runs import TINY_ACT, assert_loads_in_stock_lerobot, metrics_of, train_args
from make_dataset import make_dataset

from hlrp.runs import RunDirectory

LOGGED = ("trainer.save_freq=10", "trainer.log_freq=1")


def _weights(run: Path) -> dict[str, "object"]:
    from safetensors.torch import load_file

    latest = RunDirectory.open(run).latest()
    assert latest is not None
    return load_file(latest.pretrained / "model.safetensors")


@pytest.fixture(scope="module")
def straight(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 steps without interruption, every step logged."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    done = hlrp(*train_args(toy_root, run, "act", 30, *TINY_ACT, *LOGGED, workers=1))
    assert done.code == 0, done.err
    return run


def test_run_directory_holds_what_the_design_says(straight: Path, toy_root: Path) -> None:
    manifest = json.loads((straight / "run.json").read_text())
    assert manifest["status"] == "finished"
    assert (manifest["trainer"], manifest["policy"], manifest["seed"], manifest["steps"]) == (
        "lerobot",
        "act",
        1000,
        30,
    )
    assert manifest["checkpoints"] == ["000010", "000020", "000030"]
    assert manifest["dataset"]["root"] == str(toy_root)
    assert len(manifest["dataset"]["fingerprint"]) == 16
    assert manifest["versions"]["lerobot"].startswith("0.6")
    rows = metrics_of(straight)
    assert sorted(rows) == list(range(1, 31))
    assert rows[30]["loss"] < rows[1]["loss"]
    assert all(0 <= row["data_wait"] <= 1 for row in rows.values())
    log = (straight / "log.txt").read_text()
    assert "End of training" in log
    assert "\x1e" not in log
    assert "policy_type: act" in (straight / "config.yaml").read_text()
    assert not list(straight.rglob("*.partial"))


def test_checkpoint_loads_in_stock_lerobot_in_another_process(straight: Path) -> None:
    assert_loads_in_stock_lerobot(straight / "checkpoints/000030/pretrained_model")


@pytest.mark.slow
def test_kill_and_resume_equal_an_uninterrupted_run(straight: Path, toy_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    command = [*train_args(toy_root, run, "act", 30, *TINY_ACT, *LOGGED, workers=1), "--resume", "auto"]
    process = start(command)
    wait_for_rows(run, 12, process)
    family = family_of(process)
    process.kill()  # SIGKILL: nothing of ours can run any more
    process.communicate()
    assert_gone(family)
    # The worker saw that nobody reads any more, and saved; take that away to have what a power cut leaves.
    for later in (c for c in RunDirectory.open(run).checkpoints() if c.step > 10):
        shutil.rmtree(later.path)
    # The newest checkpoint is half-written: it must be skipped and named.
    broken = run / "checkpoints" / "000015" / "pretrained_model"
    broken.mkdir(parents=True)
    whole = (run / "checkpoints/000010/pretrained_model/model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (broken / "config.json").write_text("{}")
    assert_user_error(hlrp(*command, "--lr", "0.5"), "other settings: trainer.learning_rate is None there, 0.5 here")
    done = hlrp(*command)
    assert done.code == 0, done.err
    assert "checkpoint 000015 is skipped: model.safetensors is truncated" in done.err
    first, second = metrics_of(straight), metrics_of(run)
    assert sorted(second) == list(range(1, 31))
    assert [second[s]["loss"] for s in range(1, 31)] == [first[s]["loss"] for s in range(1, 31)]
    assert [second[s]["grad_norm"] for s in range(1, 31)] == [first[s]["grad_norm"] for s in range(1, 31)]
    ours, theirs = _weights(run), _weights(straight)
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[k] == theirs[k]).all()) for k in ours)  # type: ignore[attr-defined]
    ended = RunDirectory.open(run).manifest.ended
    done = hlrp(*command)
    assert done.code == 0 and str(run / "checkpoints/000030") in done.out, done.err
    assert RunDirectory.open(run).manifest.ended == ended, "a run that has all its steps is left as it is"


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_saves_a_checkpoint_that_resumes_and_leaves_no_orphans(
    toy_root: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "stopped"
    process = start(train_args(toy_root, run, "act", 80, *TINY_ACT, "trainer.log_freq=1", workers=1))
    wait_for_rows(run, 3, process)
    family = family_of(process)
    assert family
    # A scheduler tells every process, data workers too; they end after the training process, which saves.
    told = [process, *(family if number == signal.SIGTERM else [])]
    for one in reversed(told):
        one.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "hlrp train --resume" in err
    assert "Traceback" not in err
    assert_gone(family)
    directory = RunDirectory.open(run)
    assert directory.manifest.status == "interrupted"
    latest = directory.latest()
    assert latest is not None
    assert 3 <= latest.step < 80
    dry = hlrp("train", "--resume", run, "--dry-run")
    assert dry.code == 0
    assert f"{latest.path.name}/pretrained_model/train_config.json" in dry.out
    if number == signal.SIGTERM:
        return  # that a run goes on is seen after a kill; the quick one of the two signals stops here
    done = hlrp("train", "--resume", run)
    assert done.code == 0, done.err
    assert sorted(metrics_of(run)) == list(range(1, 81)), "no step is lost or done twice"
    assert RunDirectory.open(run).manifest.status == "finished"


def test_values_that_only_lerobot_can_judge_are_refused_before_anything_is_written(
    toy_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "refused"
    done = hlrp(*train_args(toy_root, run, "act", 4, "model.chunk_size=8", "model.n_action_steps=9"))
    assert_user_error(done, "n_action_steps", "chunk_size")
    assert not run.exists()


@pytest.mark.slow
def test_the_chosen_camera_alone_is_seen_and_a_folder_keeps_its_name(tmp_path: Path) -> None:
    """Two cameras, of which one is asked for, in a folder whose name YAML reads as nothing."""
    from make_dataset import make_dataset

    cameras = ("observation.images.front", "observation.images.wrist")
    root = make_dataset(tmp_path / "null", length=8, cameras=cameras)
    run = tmp_path / "true"
    done = hlrp(*train_args(root, run, "act", 2, *TINY_ACT, f"data.cameras=[{cameras[0]}]"))
    assert done.code == 0, done.err
    saved = json.loads((run / "checkpoints/000002/pretrained_model/config.json").read_text())
    assert sorted(saved["input_features"]) == [cameras[0], "observation.state"]
    config = json.loads((run / "checkpoints/000002/pretrained_model/train_config.json").read_text())
    assert (config["dataset"]["repo_id"], config["dataset"]["root"]) == ("null", str(root))
    assert RunDirectory.open(run).manifest.dataset.root == str(root)


@pytest.mark.slow
def test_init_from_another_run_starts_from_its_weights(straight: Path, toy_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "tuned"
    args = [
        "train",
        "--policy",
        "act",
        "--init-from",
        str(straight),
        "--dataset-root",
        str(toy_root),
        "--device",
        "cpu",
    ]
    done = hlrp(
        *args,
        "--steps",
        "1",
        "--batch-size",
        "4",
        "--output-dir",
        str(run),
        "--lr",
        "1e-9",
        "data.num_workers=0",
        "model.optimizer_lr_backbone=1e-9",
    )
    assert done.code == 0, done.err
    before, after = _weights(straight), _weights(run)
    assert before.keys() == after.keys()
    # One step at a vanishing learning rate moves nothing that can be seen; fresh weights would differ everywhere.
    learned = [k for k in before if k.endswith("weight") and before[k].dtype.is_floating_point]  # type: ignore[attr-defined]
    assert all(bool(((before[k] - after[k]).abs() < 1e-6).all()) for k in learned)  # type: ignore[operator]


def test_a_video_that_turns_out_bad_fails_the_run_and_leaves_what_it_did(tmp_path: Path) -> None:
    """Its beginning and its table of contents are whole, so that nothing is seen before the training comes to it."""
    root, run = make_dataset(tmp_path / "data", episodes=1, length=60), tmp_path / "run"
    video = next(root.rglob("*.mp4"))
    content = bytearray(video.read_bytes())
    middle = len(content) * 3 // 4
    content[middle : middle + 40] = b"\xff" * 40
    video.write_bytes(content)
    args = train_args(root, run, "act", 60, *TINY_ACT, "trainer.log_freq=1", "--batch-size", "1")
    done = hlrp(*args)
    assert done.code == 1 and "Traceback" not in done.err, done.err
    assert done.err.count("error:") == 1 and "the frames of episode 0 cannot be decoded" in done.err
    manifest = RunDirectory.open(run).manifest
    assert manifest.status == "failed" and str(video) in (manifest.reason or "")
    assert list(metrics_of(run)) == list(range(1, len(metrics_of(run)) + 1)) != []
