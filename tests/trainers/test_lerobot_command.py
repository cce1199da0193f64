"""The arguments that LeRobot is given, and what is checked before it starts."""

import json
from pathlib import Path

import pytest

from hlrp.config import LeRobotRun, load_config
from hlrp.data.dataset_info import read_dataset
from hlrp.errors import UserError
from trainers.events import ASKED_POLICY
from trainers.lerobot_command import build_arguments, build_command, default_log_freq, default_save_freq
from trainers.lerobot_session import explain_failure, metrics_row


def _run(*overrides: str) -> LeRobotRun:
    run = load_config(None, ["model.policy_type=act", *overrides]).config
    assert isinstance(run, LeRobotRun)
    return run


def _arguments(root: Path, *overrides: str, known: dict[str, object] | None = None) -> dict[str, str]:
    run = _run(f"data.root={root}", *overrides)
    listed = build_arguments(run, read_dataset(None, root), Path("/runs/x"), run.trainer.steps, known)
    return dict(a.removeprefix("--").split("=", 1) for a in listed)


def test_schema_keys_become_lerobot_arguments(toy_root: Path) -> None:
    arguments = _arguments(
        toy_root,
        "trainer.steps=40",
        "trainer.batch_size=3",
        "trainer.seed=7",
        "trainer.learning_rate=1e-3",
        "trainer.device=cpu",
        "data.episodes=[1]",
        "model.hidden_dim=32",
        "model.use_vae=false",
        "model.pretrained_backbone_weights=null",
        "trainer.lerobot_args={wandb.enable: true}",
    )
    expected = {
        "policy.type": "act",
        "policy.dim_model": "32",
        "policy.use_vae": "false",
        "policy.pretrained_backbone_weights": "null",
        "policy.optimizer_lr": "0.001",
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "dataset.root": str(toy_root),
        "dataset.episodes": "[1]",
        "output_dir": "/runs/x",
        "steps": "40",
        "batch_size": "3",
        "seed": "7",
        "wandb.enable": "true",
    }
    assert {k: arguments.get(k) for k in expected} == expected
    assert "env.type" not in arguments, "no simulator unless rollouts are asked for"


def test_every_key_has_its_argument(toy_root: Path, tmp_path: Path) -> None:
    """Of each key that LeRobot is given by another name than the policy's: none may be left behind."""
    arguments = _arguments(
        toy_root,
        "trainer.eval_split=0.25",
        "trainer.eval_steps=7",
        "trainer.log_freq=3",
        "trainer.save_freq=11",
        "data.rename_map={observation.image: observation.images.top}",
        "data.video_backend=pyav",
        "data.num_workers=1",
        "job_name=mine",
        "push_to_hub=true",
        f"model.init_from={tmp_path}",
    )
    expected = {
        "dataset.eval_split": "0.25",
        "eval_steps": "7",
        "log_freq": "3",
        "save_freq": "11",
        "rename_map": '{"observation.image": "observation.images.top"}',
        "dataset.video_backend": "pyav",
        "num_workers": "1",
        "job_name": "mine",
        "policy.push_to_hub": "true",
        "policy.path": str(tmp_path),
        "dataset.repo_id": read_dataset(None, toy_root).repo_id,
    }
    assert {k: arguments.get(k) for k in expected} == expected
    assert "policy.type" not in arguments, "the folder says it"
    assert not {"dataset.eval_split", "rename_map", "dataset.video_backend"} & _arguments(toy_root).keys()


def test_rollouts_during_training_name_the_simulator(toy_root: Path) -> None:
    arguments = _arguments(
        toy_root, "trainer.eval_freq=10", "env.type=metaworld_light", "env.task=drawer-close-v3", "env.image_size=64"
    )
    assert (arguments["env.type"], arguments["env.task"], arguments["env.image_size"]) == (
        "metaworld_light",
        "drawer-close-v3",
        "64",
    )
    assert arguments["env_eval_freq"] == "10"


@pytest.mark.parametrize(("known", "dtype"), [({"dtype": None}, "bfloat16"), ({}, None)])
def test_precision_is_the_policys_dtype_or_accelerates(
    toy_root: Path, known: dict[str, object], dtype: str | None
) -> None:
    assert _arguments(toy_root, "trainer.precision=bf16", known=known).get("policy.dtype") == dtype
    assert build_command(_run("trainer.precision=bf16"), []).environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_network_is_off_unless_asked_for() -> None:
    assert build_command(_run(), []).environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in build_command(_run("allow_download=true"), []).environment


@pytest.mark.parametrize(
    ("override", "adapters"),
    [
        ("trainer.steps=2", False),
        ("trainer.lerobot_args={peft.r: 4}", True),
        ("trainer.lerobot_args={peft: {r: 4}}", True),
        ("model.use_peft=true", True),
    ],
)
def test_process_knows_whether_adapters_are_asked_for(override: str, adapters: bool) -> None:
    """Else it would leave out the package that makes them."""
    asked = json.loads(build_command(_run(override), []).environment[ASKED_POLICY])
    assert (asked["name"], asked["fresh"], asked["adapters"]) == ("act", True, adapters)


def test_several_devices_go_through_torchrun() -> None:
    argv = build_command(_run("trainer.devices=2"), ["--steps=1"]).argv
    assert argv[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc-per-node=2" in argv
    assert argv[-2:] == ["trainers.lerobot_worker", "--steps=1"]


def test_intervals_fit_short_and_long_runs() -> None:
    assert [default_log_freq(s) for s in (1, 100, 100_000)] == [1, 2, 200]
    assert [default_save_freq(s) for s in (20, 2000, 1_000_000)] == [100, 400, 20_000]


def test_data_wait_is_the_share_of_a_step() -> None:
    row = metrics_row({"steps": 5, "loss": 0.5, "update_s": 0.3, "dataloading_s": 0.1})
    assert row["step"] == 5
    assert row["data_wait"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("error", "message", "code", "says"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate", 1, "--batch-size"),
        ("OSError", "[Errno 28] No space left on device", 1, "free space"),
        ("RuntimeError", "DataLoader worker (pid 3) is killed by signal: Killed.", 1, "data.num_workers"),
        ("LocalEntryNotFoundError", "outgoing traffic has been disabled", 1, "--allow-download"),
        ("ValueError", "something new\nwith details", 1, "ValueError: something new"),
        ("", "", -9, "signal 9"),
        ("", "", 3, "the last line"),
    ],
)
def test_a_failure_is_one_readable_sentence(error: str, message: str, code: int, says: str) -> None:
    reason = explain_failure(error, message, code, ["first", "the last line", ""])
    assert says in reason
    assert "\n" not in reason


def test_a_trainer_made_in_python_checks_its_settings(toy_root: Path, tmp_path: Path) -> None:
    from trainers import LeRobotTrainer, get_trainer

    assert get_trainer("lerobot") is LeRobotTrainer
    with pytest.raises(UserError, match="stepps"):
        LeRobotTrainer(stepps=3).fit("act", dataset_root=toy_root, output_dir=tmp_path / "run")
    with pytest.raises(UserError, match="did you mean 'lerobot'"):
        get_trainer("lerobt")
