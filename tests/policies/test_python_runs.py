"""Runs that are put together in Python: what is given is obeyed, recorded, or refused."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hlrp.config import load_config
from hlrp.data import LeRobotDataModule
from hlrp.errors import UserError
from hlrp.policies.lerobot import ACT, Pi0, SmolVLA, VQBeT
from hlrp.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import TINY, rows_of

from trainers.lightning.python_runs import run_of
from trainers.lightning.trainer import LightningTrainer

ONE_STEP: dict[str, Any] = {"steps": 1, "log_freq": 1, "device": "cpu"}


def _act(**more: Any) -> ACT:
    return ACT(**TINY["act"], **more)


def _data(root: Path, **more: Any) -> LeRobotDataModule:
    return LeRobotDataModule(root=root, **{"cache": "ram", "batch_size": 4, **more})


def test_a_policy_is_not_trained_on_other_data_than_it_was_made_for(square_root: Path, tmp_path: Path) -> None:
    """It would keep the statistics of the first; the same data, wherever they lie, are no others."""
    other, moved = tmp_path / "other", tmp_path / "moved"
    for copy in (other, moved):
        shutil.copytree(square_root, copy)
    stats = json.loads((other / "meta" / "stats.json").read_text())
    stats["action"]["mean"] = [5.0, 5.0, 5.0]
    (other / "meta" / "stats.json").write_text(json.dumps(stats))
    trained, made = _act(), ACT.from_dataset(square_root, **TINY["act"])
    LightningTrainer(**ONE_STEP).fit(trained, _data(square_root), output_dir=tmp_path / "first")
    for policy in (trained, made):
        with pytest.raises(UserError) as refusal:
            LightningTrainer(**ONE_STEP).fit(policy, _data(other), output_dir=tmp_path / "second")
        assert refusal.value.what == "this ACT was made for data with other features or statistics: action"
        assert refusal.value.where == f"dataset {other}"
        assert refusal.value.fix is not None and "ACT.from_pretrained(FOLDER)" in refusal.value.fix
        assert not (tmp_path / "second").exists()
    head = trained.policy.model.action_head.weight
    before = head.detach().clone()
    LightningTrainer(**ONE_STEP).fit(trained, _data(moved), output_dir=tmp_path / "again")
    assert trained.policy.model.action_head.weight is head and not head.equal(before)


@pytest.mark.parametrize(
    ("setting", "value", "owner"),
    [
        ("learning_rate", 1e-3, "ACT"),
        ("optimizer", {"type": "sgd", "lr": 0.1}, "ACT"),
        ("scheduler", {"type": "none"}, "ACT"),
        ("ema_decay", 0.9, "ACT"),
        ("batch_size", 16, "LeRobotDataModule"),
        ("eval_split", 0.2, "LeRobotDataModule"),
        ("seed", 5, "LeRobotDataModule"),
    ],
)
def test_what_the_parts_have_is_not_dropped_from_the_trainer(
    square_root: Path, setting: str, value: Any, owner: str
) -> None:
    """Nobody would apply it to them, and it would be recorded all the same."""
    trainer = LightningTrainer(**ONE_STEP, **{setting: value})
    with pytest.raises(UserError) as refusal:
        trainer.fit(_act(), _data(square_root, seed=7))
    assert f"the trainer's {setting} ({value!r}) does not reach the {owner}" in refusal.value.what
    assert refusal.value.where == f"LightningTrainer({setting}=...)"
    assert refusal.value.fix == f"leave it out, and give {owner}({setting}={value!r})"


def test_what_the_parts_have_may_be_said_twice(square_root: Path) -> None:
    said = {"learning_rate": 1e-3, "ema_decay": 0.9, "batch_size": 4, "eval_split": 0.4, "seed": 5}
    run = run_of(said, _act(lr=1e-3, ema_decay=0.9), _data(square_root, eval_split=0.4))
    assert {name: getattr(run.trainer, name) for name in said} == said
    with pytest.raises(UserError, match=r"ema_decay \(0.9\) does not reach the ACT .* whose own is 0.5"):
        run_of({"ema_decay": 0.9}, _act(ema_decay=0.5), _data(square_root))


def test_a_loader_keeps_its_batch_size() -> None:
    """Whatever is trained with it."""
    from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(RandomDataset(32, 64), batch_size=2)
    with pytest.raises(UserError, match=r"batch_size \(16\) does not reach the DataLoader .* whose own is 2"):
        LightningTrainer(**ONE_STEP, batch_size=16).fit(BoringModel(), loader)


def _stopped_after(step: int, run: Path, copy: Path) -> tuple[RunDirectory, Any]:
    """A copy of a run without its later checkpoints, and its configuration."""
    shutil.copytree(run, copy, symlinks=True)
    for folder in (copy / "checkpoints").glob("0*"):
        if int(folder.name) > step:
            shutil.rmtree(folder)
    return RunDirectory.open(copy), load_config(copy / "config.yaml").config


def test_lerobots_image_transforms_are_recorded(square_root: Path, tmp_path: Path) -> None:
    from lerobot.transforms import ImageTransformConfig, ImageTransforms, ImageTransformsConfig

    shift = ImageTransformConfig(weight=2.0, type="RandomAffine", kwargs={"degrees": (-20.0, 20.0)})
    jitter = ImageTransformConfig(type="ColorJitter", kwargs={"brightness": (0.5, 1.5)})
    transforms = ImageTransforms(
        ImageTransformsConfig(enable=True, max_num_transforms=1, random_order=True, tfs={"b": jitter, "a": shift})
    )
    run = tmp_path / "run"
    data = _data(square_root, image_transforms=transforms)
    LightningTrainer(**{**ONE_STEP, "steps": 4}, save_freq=2).fit(_act(), data, output_dir=run)
    directory, config = _stopped_after(2, run, tmp_path / "resumed")
    assert directory.manifest.undescribed == {}
    assert config.data.image_transforms.lerobot_fields == {
        "enable": True,
        "max_num_transforms": 1,
        "random_order": True,
        "tfs": {
            "b": {"weight": 1.0, "type": "ColorJitter", "kwargs": {"brightness": [0.5, 1.5]}},
            "a": {"weight": 2.0, "type": "RandomAffine", "kwargs": {"degrees": [-20.0, 20.0]}},
        },
    }
    LightningTrainer().resume(directory, config)
    assert rows_of(directory.path, "loss") == rows_of(run, "loss")


def test_what_no_configuration_can_say_goes_on_in_python_alone(square_root: Path, tmp_path: Path) -> None:
    class Small(ACT):
        def forward(self, batch: Any) -> Any:
            loss, outputs = super().forward(batch)
            return loss * 0.001, outputs

    def data() -> LeRobotDataModule:
        return _data(square_root, eval_split=0.2, max_val_samples=8, image_transforms=lambda frames: frames)

    run = tmp_path / "run"
    settings = {**ONE_STEP, "steps": 4, "save_freq": 2, "eval_steps": 2}
    LightningTrainer(**settings).fit(Small(**TINY["act"], lr=1e-3), data(), output_dir=run)
    directory, config = _stopped_after(2, run, tmp_path / "resumed")
    here = "test_what_no_configuration_can_say_goes_on_in_python_alone.<locals>"
    missing = "LeRobotDataModule(image_transforms=..., max_val_samples=...)"
    assert directory.manifest.undescribed == {"module": f"the class {here}.Small", "datamodule": missing}
    trainer, module = LightningTrainer(), Small(**TINY["act"], lr=1e-3)
    with pytest.raises(UserError, match=r"Small and LeRobotDataModule\(image_transforms") as refusal:
        trainer.resume(directory, config)
    assert refusal.value.fix is not None and refusal.value.fix.endswith("module=..., datamodule=...)")
    with pytest.raises(UserError, match="begun in Python"):
        trainer.dry_run(config, resume=directory)
    with pytest.raises(UserError, match=r"begun in Python with LeRobotDataModule\("):
        trainer.resume(directory, config, module=module)
    trainer.resume(directory, config, module=module, datamodule=data())
    assert rows_of(run, "loss")[-1] < 0.1
    for column in ("loss", "val_loss"):
        assert rows_of(directory.path, column) == rows_of(run, column)
    weights = [
        (folder / "checkpoints/000004/pretrained_model/model.safetensors").read_bytes()
        for folder in (run, directory.path)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("policy", "settings", "said"),
    [
        (lambda: VQBeT(**TINY["vqbet"]), {"precision": "bf16"}, "'vqbet' cannot be trained in bf16"),
        (SmolVLA, {"activation_checkpointing": True}, "'smolvla' runs its layers in pieces"),
        (SmolVLA, {"compile": True}, "'smolvla', which compiles itself"),
        (Pi0, {"precision": "bf16"}, r"precision \('bf16'\) does not reach .* whose dtype is 'float32'"),
    ],
)
def test_what_a_policy_is_not_made_for_is_refused_before_the_start(
    square_root: Path, tmp_path: Path, policy: Any, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        LightningTrainer(**ONE_STEP, **settings).fit(policy(), _data(square_root), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
