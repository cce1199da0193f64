"""What becomes of the arguments: texts stay texts, any length arrives, LeRobot's split is that of the other trainer."""

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hlrp.compat import loop_has_accelerator_arguments
from hlrp.config import LeRobotRun, load_config
from hlrp.data.dataset_info import read_dataset
from hlrp.data.episodes import split_episodes
from hlrp.errors import UserError
from hlrp.runs import Checkpoint
from trainers import get_trainer
from trainers.lerobot.command import build_arguments, build_command, check_loop_arguments, encode, resume_arguments
from trainers.lerobot.events import ASKED_DEVICE
from trainers.lerobot.hooks import restore_random_state

# What YAML or JSON reads as something else than text.
ODD_NAMES = ["null", "1e3", "true", "[a]", "1", "a: b", "x #y", "~", "", "é", "2020-01-01", "'q'", '"q"', "a\nb", "yes"]


def test_names_stay_names_in_lerobots_own_parser() -> None:
    """For a new run it reads YAML, on top of a checkpoint JSON."""
    from draccus.parsers.config_parsers import JSONParser, YAMLParser

    for name in [*ODD_NAMES, "toy", "/data/pick up", "lerobot/pusht"]:
        text = encode("dataset.repo_id", name)
        assert (YAMLParser.parse_string(text), JSONParser.parse_string(text)) == (name, name), (name, text)
    assert encode("policy.path", "null") == "null", "LeRobot reads this one itself"
    with pytest.raises(UserError, match="'included'"):
        encode("dataset.repo_id", "included")


def test_arguments_of_any_length_reach_the_process(toy_root: Path) -> None:
    run = load_config(None, ["model.policy_type=act", f"data.root={toy_root}", "data.episodes=0-29998"]).config
    assert isinstance(run, LeRobotRun)
    command = build_command(run, build_arguments(run, read_dataset(None, toy_root), Path("/runs/x"), 5, None))
    with command.started() as argv:
        code = (
            "import sys; from trainers.lerobot.command import expand_arguments as e; print(*e(sys.argv[1:]), sep='\\n')"
        )
        started = subprocess.run([sys.executable, "-c", code, argv[-1]], capture_output=True, text=True, check=True)
        file = Path(argv[-1].removeprefix("@"))
        assert file.is_file()
    assert not file.exists(), "nothing is left"
    assert started.stdout.splitlines() == command.arguments
    # What a dry run shows can be typed.
    shown = command.shown()
    assert max(map(len, shown.splitlines()[0].split())) < 1000
    echo = shown.replace(shlex.join(command.launcher), f"{sys.executable} -c {shlex.quote(code)}")
    typed = subprocess.run(["bash"], input=echo, capture_output=True, text=True, check=True)
    assert typed.stdout.splitlines() == command.arguments
    short = build_command(run, ["--steps=1"])
    with short.started() as argv:
        assert argv == short.typed


def test_both_trainers_hold_out_the_same_episodes(tmp_path: Path) -> None:
    """Whatever the order in which they are given: LeRobot holds out the last ones as they are listed."""
    import draccus
    import lerobot.policies  # noqa: F401 - registers them
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.datasets.factory import make_train_eval_datasets
    from make_dataset import make_dataset

    root = make_dataset(tmp_path / "six", episodes=6, length=4, tasks=("push", "pull"))
    for given in ("5,4,3,2,1,0", "4,5,1,0"):
        run = load_config(
            None, ["model.policy_type=act"], {"data.episodes": (given, ""), "data.root": (root, "")}
        ).config
        assert isinstance(run, LeRobotRun)
        run = run.model_copy(update={"trainer": run.trainer.model_copy(update={"eval_split": 0.34})})
        info = read_dataset(None, root)
        arguments = build_arguments(run, info, tmp_path / "run", 5, None)
        train, held_out = make_train_eval_datasets(draccus.parse(TrainPipelineConfig, args=arguments))
        assert held_out is not None
        ours = split_episodes(info, 0.34, episodes=run.data.episodes)
        assert (sorted(train.episodes), sorted(held_out.episodes)) == ours


def test_what_lerobots_loop_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    check_loop_arguments({"wandb.enable": True, "checkpoint_format": "safetensors", "save_checkpoint": True}, "cpu")
    accumulated = {"accelerator.gradient_accumulation.steps": 2}
    if loop_has_accelerator_arguments():
        check_loop_arguments(accumulated, "cpu")
    else:
        with pytest.raises(UserError, match=r"neither accumulates gradients(.|\n)*accumulate_grad_batches"):
            check_loop_arguments(accumulated, "cpu")
    with pytest.raises(UserError, match=r"trainer\.strategy=fsdp"):
        check_loop_arguments({"parallelism.dp_shard": -1}, None)
    with pytest.raises(UserError, match="pickled"):
        check_loop_arguments({"checkpoint_format": "dcp"}, None)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="ACCELERATE_USE_FSDP"):
        check_loop_arguments({}, "cpu")


def test_streamed_data_have_no_order_and_are_refused() -> None:
    check_loop_arguments({"dataset.streaming": False}, "cpu")
    with pytest.raises(UserError, match=r"without a sampler(.|\n)*lerobot_args\.dataset\.streaming"):
        check_loop_arguments({"dataset.streaming": True}, "cpu")


@pytest.mark.parametrize("given", ["{save_checkpoint: false}", "{save_checkpoint: 'false'}", "{save_checkpoint: null}"])
def test_a_run_that_could_not_be_stopped_is_refused(given: str, toy_root: Path, tmp_path: Path) -> None:
    """LeRobot's loop stops right after a checkpoint, and nowhere else. An old run's file can still be read."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "trainer_type: lerobot\nmodel: {policy_type: act}\n"
        f"data: {{root: {toy_root}}}\ntrainer: {{lerobot_args: {given}}}\n"
    )
    run = load_config(file).config
    assert isinstance(run, LeRobotRun)
    with pytest.raises(UserError, match=r"cannot be stopped(.|\n)*trainer\.save_freq"):
        get_trainer("lerobot").dry_run(run)


def _loop(resume: str) -> SimpleNamespace:
    """What the hook needs of a loop: its first update, and the function that it resumes through."""
    return SimpleNamespace(update_policy=lambda: torch.rand(2).tolist(), **{resume: lambda *_: torch.rand(1)})


@pytest.mark.parametrize("resume", ["load_training_state", "resume_before_prepare"])
def test_the_random_state_is_that_of_the_checkpoint_at_the_first_update(resume: str, tmp_path: Path) -> None:
    """Of the loop of 0.6.1, and of one that resumes in two steps."""
    from lerobot.utils.random_utils import save_rng_state

    (tmp_path / "training_state").mkdir()
    save_rng_state(tmp_path / "training_state")
    expected = [torch.rand(2).tolist(), torch.rand(2).tolist()]
    loop = _loop(resume)
    restore_random_state(loop)
    getattr(loop, resume)(tmp_path if resume == "load_training_state" else SimpleNamespace(checkpoint_path=tmp_path))
    torch.rand(7)  # as the loader does
    assert [loop.update_policy(), loop.update_policy()] == expected


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, "cuda:1", "1"),
        ("5,GPU-8a7f, 2", "cuda:1", "GPU-8a7f"),
        ("5,GPU-8a7f, 2", "cuda:2", "2"),
        ("5,GPU-8a7f, 2", "cuda", None),
        ("5,GPU-8a7f, 2", "cpu", None),
    ],
)
def test_a_gpu_by_number_is_the_only_one_that_lerobot_sees(
    toy_root: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, expected: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    run = load_config(None, ["model.policy_type=act", f"data.root={toy_root}", f"trainer.device={device}"]).config
    assert isinstance(run, LeRobotRun)
    arguments = build_arguments(run, read_dataset(None, toy_root), Path("/runs/x"), 5, None)
    environment = build_command(run, arguments).environment
    plain = device.partition(":")[0]
    assert environment.get("CUDA_VISIBLE_DEVICES") == expected
    assert environment[ASKED_DEVICE] == plain and f"--policy.device={plain}" in arguments
    checkpoint = Checkpoint(5, Path("/runs/x/checkpoints/5"), None)
    again = resume_arguments(checkpoint, Path("/runs/x"), None, run)
    assert [text for text in again if "policy.device" in text] == (["--policy.device=cuda"] if expected else [])


@pytest.mark.parametrize(
    ("override", "said"), [("trainer.devices=1", "which has 3 x cuda"), ("trainer.devices=2", "is one GPU, but 2")]
)
def test_a_gpu_that_cannot_be_the_only_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, override: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    run = load_config(None, ["model.policy_type=act", "data.root=/d", "trainer.device=cuda:3", override]).config
    assert isinstance(run, LeRobotRun)
    with pytest.raises(UserError, match=f"device 'cuda:3' .*{said}"):
        build_command(run, [])
