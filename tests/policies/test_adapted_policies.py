"""Policies with PEFT's adapters: made by LeRobot's loop, trained on from there by either trainer, loaded again."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file

from hlrp.data import LeRobotDataModule
from hlrp.errors import UserError, WorkError
from hlrp.evaluation.policy import load_policy, policy_config
from hlrp.policies import LeRobotPolicyAdapter
from hlrp.policies.adapted import require_loadable
from hlrp.runs import RunDirectory, resolve_pretrained

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import TINY

from trainers.lightning.trainer import LightningTrainer

SETTINGS: dict[str, Any] = {"steps": 2, "save_freq": 2, "log_freq": 1, "device": "cpu"}


def _data(root: Path) -> LeRobotDataModule:
    return LeRobotDataModule(root=root, cache="ram", batch_size=4, num_workers=0)


def _adapters(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{step:06d}" / "pretrained_model" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def adapted(square_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What LeRobot's loop leaves of a run with `peft.*`, from a run of ACT: adapters, configuration, processors."""
    out = tmp_path_factory.mktemp("adapted")
    LightningTrainer(**SETTINGS).fit(
        LeRobotPolicyAdapter("act", **TINY["act"]), _data(square_root), output_dir=out / "run"
    )
    start = resolve_pretrained(out / "run")
    policy = LeRobotPolicyAdapter.from_pretrained(start).policy
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"r": 2, "target_modules": ["action_head", "linear1"]})
    folder = out / "pretrained_model"
    wrapped.save_pretrained(folder)
    wrapped.config.save_pretrained(folder)
    for processor in make_pre_post_processors(policy.config, str(start)):
        processor.save_pretrained(folder)
    return folder


def test_a_run_from_adapters_trains_them_and_is_loaded_again(adapted: Path, square_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    module = LeRobotPolicyAdapter("act", init_from=adapted)
    LightningTrainer(**SETTINGS).fit(module, _data(square_root), output_dir=run)
    saved = resolve_pretrained(run)
    before, after = load_file(adapted / "adapter_model.safetensors"), _adapters(run, 2)
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    beneath = json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert beneath == json.loads((adapted / "adapter_config.json").read_text())["base_model_name_or_path"]
    frame = {"observation.image": torch.rand(1, 3, 64, 64), "observation.state": torch.zeros(1, 2)}
    module.policy.eval()
    actions = [policy.select_action(frame) for policy in (module, LeRobotPolicyAdapter.from_pretrained(saved))]
    torch.testing.assert_close(*actions)
    # As `hlrp eval` and LeRobot itself load it.
    loaded = load_policy(policy_config(saved, "cpu"), None, {}, rename_given=False)
    torch.testing.assert_close(
        loaded.postprocessor(loaded.policy.select_action(loaded.preprocessor(frame))), actions[0]
    )


def test_such_a_run_goes_on(adapted: Path, square_root: Path, tmp_path: Path) -> None:
    from hlrp.config import load_config

    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for run, settings in ((parts, SETTINGS), (whole, SETTINGS | {"steps": 4})):
        LightningTrainer(**settings).fit(
            LeRobotPolicyAdapter("act", init_from=adapted), _data(square_root), output_dir=run
        )
    config: Any = load_config(parts / "config.yaml").config
    LightningTrainer().resume(RunDirectory.open(parts), config, steps=4)
    resumed, uninterrupted = _adapters(parts, 4), _adapters(whole, 4)
    for name, values in uninterrupted.items():
        torch.testing.assert_close(resumed[name], values, msg=name)
    again = tmp_path / "again"
    LightningTrainer(**SETTINGS).fit(LeRobotPolicyAdapter("act", init_from=parts), _data(square_root), output_dir=again)
    assert _adapters(again, 2).keys() == resumed.keys()


def test_lerobots_loop_saves_their_configuration_too(adapted: Path, tmp_path: Path) -> None:
    """LeRobot writes it only in a run that is given `peft.*` itself; what it leaves out here is the same."""
    from types import SimpleNamespace

    from accelerate import Accelerator

    from hlrp.processes import StopRequests
    from trainers.lerobot.saving import save_atomically

    module = LeRobotPolicyAdapter.from_pretrained(adapted)
    built = module.built

    def save(*, checkpoint_dir: Path, policy: Any, step: int) -> None:
        policy.save_pretrained(checkpoint_dir / "pretrained_model")
        for processor in (built.preprocessor, built.postprocessor):
            processor.save_pretrained(checkpoint_dir / "pretrained_model")

    script = SimpleNamespace(save_checkpoint=save, should_save_checkpoint=None, update_last_checkpoint=None)
    wait = Accelerator.wait_for_everyone
    try:
        save_atomically(script, lambda *_, **__: None, StopRequests())
        script.save_checkpoint(checkpoint_dir=tmp_path / "000002", policy=module.policy, step=2)
    finally:
        Accelerator.wait_for_everyone = wait
    again = LeRobotPolicyAdapter.from_pretrained(tmp_path / "000002" / "pretrained_model")
    ours, theirs = module.policy.state_dict(), again.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and "lora" in " ".join(theirs)


def test_what_cannot_be_loaded_is_said(adapted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints" / "000002" / "pretrained_model"
    shutil.copytree(adapted, folder)
    (folder / "config.json").unlink()
    state = folder.parent / "training_state"
    state.mkdir()
    (state / "lightning.json").write_text("{}")
    with pytest.raises(WorkError, match=r"could not be loaded again: config\.json is missing"):
        require_loadable(folder)
    with pytest.raises(UserError, match=r"\(000002: config\.json is missing\)"):
        resolve_pretrained(tmp_path / "run")
