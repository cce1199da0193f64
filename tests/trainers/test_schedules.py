"""The learning rate's schedule beside the length of a run."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig
from make_dataset import make_dataset

from hlrp.config import load_config
from hlrp.data.dataset_info import read_dataset
from trainers import get_trainer
from trainers.policy_checks import check_policy_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 48 frames."""
    return make_dataset(tmp_path_factory.mktemp("schedules") / "toy")


def _rates(steps: int, **schedule: Any) -> list[float]:
    """LeRobot's shares of the largest rate, of each step."""
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=schedule["peak_lr"])
    built = CosineDecayWithWarmupSchedulerConfig(**schedule).build(optimizer, steps)
    return [built.lr_lambdas[0](step) for step in range(steps + 1)]


@pytest.mark.parametrize("name", ["demo/act", "lerobot/act_metaworld", "lightning/act"])
def test_the_rate_of_shipped_runs_decays_over_their_whole_length(name: str) -> None:
    """A longer run too, and of the usual 1,500 steps it is as it always was."""
    run: Any = load_config(name, ["data.root=toy"], {}).config
    arguments = getattr(run.trainer, "lerobot_args", {})
    schedule = {k.removeprefix("scheduler."): v for k, v in arguments.items() if k.startswith("scheduler.")}
    schedule = schedule or dict(run.trainer.scheduler)
    assert schedule.pop("type") == "cosine_decay_with_warmup"
    for steps in (run.trainer.steps, 20_000):
        rates = _rates(steps, **schedule)
        assert rates[steps // 2] == pytest.approx(0.50125) and rates[-1] == pytest.approx(1 / 400)
    known = {"peak_lr": 4.0e-4, "decay_lr": 1.0e-6, "num_warmup_steps": 50, "num_decay_steps": 1500}
    for steps in (4, 300, 1500):
        assert _rates(steps, **schedule) == _rates(steps, **known)


LEROBOT = "trainer.lerobot_args.scheduler.num_decay_steps"
OWN = ["use_policy_training_preset=false", "optimizer.type=adamw", "optimizer.lr=1e-3", "optimizer.weight_decay=0"]
OWN += ["optimizer.grad_clip_norm=10", "scheduler.type=cosine_decay_with_warmup", "scheduler.num_warmup_steps=1"]
OWN = [f"trainer.lerobot_args.{text}" for text in [*OWN, "scheduler.peak_lr=1e-3", "scheduler.decay_lr=1e-6"]]
SCHEDULER = "trainer.scheduler={type: cosine_decay_with_warmup, num_warmup_steps: 1, peak_lr: 1e-3, decay_lr: 1e-6, "


def _run(root: Path, out: Path, trainer: str, *texts: str) -> Any:
    values = {"trainer_type": trainer, "data.root": root, "output_dir": out, "trainer.device": "cpu"}
    values |= {"model.policy_type": "act", "trainer.batch_size": 8, "model.hidden_dim": 32, "model.n_heads": 4}
    texts = (*texts, "model.pretrained_backbone_weights=null", "model.chunk_size=6", "model.n_action_steps=6")
    return load_config(None, texts, {key: (value, key) for key, value in values.items()}).config


@pytest.mark.parametrize(
    ("trainer", "keys", "said"),
    [
        ("lerobot", [*OWN, f"{LEROBOT}=40", "trainer.steps=100"], f"at step 40 of 100 and stays.* give {LEROBOT} the"),
        # 48 frames in batches of 8, by 2: three steps a pass.
        (
            "lightning",
            [SCHEDULER + "num_decay_steps: 4}", "trainer.max_epochs=3", "trainer.accumulate_grad_batches=2"],
            "at step 4 of 9 and stays.* give trainer.scheduler.num_decay_steps the",
        ),
    ],
)
def test_a_dry_run_says_where_the_rate_is_lowest_for_most_of_a_run(
    trainer: str, keys: list[str], said: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get_trainer(trainer).dry_run(_run(root, tmp_path / "run", trainer, *keys))
    (warned,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert re.match(f"warning: the learning rate has decayed {said} steps of the run$", warned)


def test_a_decay_over_half_of_a_run_or_none_is_no_fault(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = [*OWN, f"{LEROBOT}=50"], [SCHEDULER + "num_decay_steps: 50}"], []
    for trainer, keys in zip(("lerobot", "lightning", "lightning"), fields, strict=True):
        check_policy_run(_run(root, tmp_path / "run", trainer, *keys, "trainer.steps=100"), read_dataset(None, root))
    assert capsys.readouterr().err == ""


def test_a_policys_own_schedule_is_told_too(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is given for it, and what its class has: 30,000 steps, of a run of the usual 100,000."""
    for given, ends in ((["model.scheduler_decay_steps=7", "trainer.steps=20"], 7), ([], 30_000)):
        flags = {"trainer_type": "lerobot", "data.root": root, "model.policy_type": "hlrp_vla_direct"}
        run: Any = load_config(None, given, {key: (value, key) for key, value in flags.items()}).config
        check_policy_run(run, read_dataset(None, root))
        assert f"has decayed at step {ends} of {run.trainer.steps} and stays" in capsys.readouterr().err
