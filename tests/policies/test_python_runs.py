"""Runs that are put together in Python: what is given is obeyed, recorded, or refused."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hlrp.data import LeRobotDataModule
from hlrp.errors import UserError
from hlrp.policies.lerobot import ACT

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import TINY

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
