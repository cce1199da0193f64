"""LeRobot's policies in the Lightning trainer: what is checked first, and what a run's settings mean for them."""

import ast
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.catalog import FieldInfo, cached_catalog
from hlrp.compat import lerobot_version, without_unused_packages
from hlrp.config import EnvSection, LightningRun, LightningTrainerSection, PolicyModel
from hlrp.data.dataset_info import read_dataset, require_training_features
from hlrp.errors import UserError
from hlrp.foundation.find import is_foundation
from hlrp.runs import resolve_pretrained
from hlrp.sim.catalog import envs_catalog, expand_tasks, require_installed
from trainers.policy_labels import label_fields

if TYPE_CHECKING:
    from hlrp.data.lerobot_data_module import LeRobotDataModule
    from hlrp.policies.adapter import LeRobotPolicyAdapter

_DTYPES = {"32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_PRECISIONS = {dtype: precision for precision, dtype in _DTYPES.items()}
_FIND_UNUSED = "ddp_find_unused_parameters_true"


def policy_of(run: LightningRun) -> PolicyModel:
    """The run's policy."""
    if not isinstance(run.model, PolicyModel):
        raise TypeError("the model section names no policy")
    return run.model


def check_policy(run: LightningRun) -> None:
    """Check what can be known of a policy's run without importing LeRobot or torch.

    Raises:
        UserError: Naming the mistake.
    """
    lerobot_version()
    model, data = policy_of(run), run.data
    refused = {
        "push_to_hub": (run.push_to_hub, "upload the checkpoint's pretrained_model/ when the run has ended"),
        "data.sources": (data.sources, "a LeRobot policy is trained on one dataset: give data.root or data.repo_id"),
    }
    for where, (asked, fix) in refused.items():
        if asked:
            raise UserError("the Lightning trainer does not do this for a policy", where=where, fix=fix)
    if run.trainer.eval_freq and run.env is not None:
        check_environment(run.env)
    catalog = cached_catalog()
    if catalog is not None:
        catalog.check_fields(model.policy_type, _fields(run))
    if model.init_from:
        start_of(model.init_from)
    elif data.rename_map:
        raise UserError(
            "names are only changed for a pretrained policy; a new one takes the dataset's",
            where="data.rename_map",
            fix="leave it out, or give --init-from",
        )
    require_training_features(read_dataset(data.repo_id, data.root))


def check_environment(env: EnvSection) -> None:
    """Refuse a simulator that is not here, or a task that it does not know, before training starts.

    Simulators that only LeRobot knows are left to it.

    Raises:
        UserError: Naming the mistake.
    """
    if env.type in envs_catalog():
        require_installed(env.type)
        expand_tasks(env.type, env.task or envs_catalog()[env.type].default_task, where="env.task")


def start_of(init_from: str) -> Path:
    """The folder of weights to start from.

    Raises:
        UserError: It is not on this machine.
    """
    if not Path(init_from).exists():
        raise UserError(
            f"{init_from!r} is not a folder on this machine",
            where="--init-from / model.init_from",
            fix="give a local folder, or fetch it first: hf download",
        )
    path = Path(init_from)
    return path if is_foundation(path) else resolve_pretrained(path)


def _known(policy_type: str) -> Mapping[str, FieldInfo]:
    catalog = cached_catalog()
    return catalog.policies[policy_type].fields if catalog and policy_type in catalog.policies else {}


def _fields(run: LightningRun) -> dict[str, Any]:
    """Fields for the policy's class, with those that the `trainer` section sets, as for LeRobot's own trainer."""
    model, trainer = policy_of(run), run.trainer
    fields = model.policy_fields
    if trainer.learning_rate is not None:
        fields["optimizer_lr"] = trainer.learning_rate
    if trainer.precision and "dtype" in _known(model.policy_type):
        fields.setdefault("dtype", _DTYPES[trainer.precision])
    online = run.latents.source == "online"
    return fields | label_fields(run, read_dataset(run.data.repo_id, run.data.root) if online else None)


def settle(run: LightningRun) -> LightningTrainerSection:
    """The `trainer` section with what LeRobot's training does where the run does not say otherwise.

    Its processes allow for parameters that a step does not use, and it computes in the policy's own `dtype`.
    """
    section = run.trainer
    if not isinstance(run.model, PolicyModel):
        return section
    changes: dict[str, Any] = {}
    if section.devices > 1 and section.strategy in ("auto", "ddp"):
        changes["strategy"] = _FIND_UNUSED
    if section.precision is None and (precision := _PRECISIONS.get(_dtype(run))) not in (None, "32"):
        changes["precision"] = precision
    return section.model_copy(update=changes)


def _dtype(run: LightningRun) -> str:
    model = policy_of(run)
    known = _known(model.policy_type)
    if "dtype" not in known:
        return ""
    if "dtype" in model.policy_fields:
        return str(model.policy_fields["dtype"])
    if model.init_from:
        return str(json.loads((start_of(model.init_from) / "config.json").read_text(encoding="utf8")).get("dtype"))
    return str(ast.literal_eval(known["dtype"].default or "''"))


def own_process(run: LightningRun) -> None:
    """Set what LeRobot reads when it is imported, in a process that is there for this run alone."""
    if not isinstance(run.model, PolicyModel):
        return
    check_policy(run)  # before the first import that takes long
    if not run.allow_download:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    without_unused_packages(policy_of(run).policy_type)


def build_policy_data(run: LightningRun, say: Callable[[str], None]) -> "LeRobotDataModule":
    """The run's data.

    Raises:
        UserError: They do not exist, or are not what is asked for.
    """
    from hlrp.data.lerobot_data_module import LeRobotDataModule

    return LeRobotDataModule.from_run(run, announce=say)


def build_adapter(run: LightningRun, resumed_from: Path | None = None) -> "LeRobotPolicyAdapter":
    """The run's policy, which is made when training starts.

    Args:
        run: The configuration.
        resumed_from: Checkpoint that the run continues; its configuration and processors are then the policy's.

    Raises:
        UserError: The checkpoint holds no policy.
    """
    from hlrp.policies.adapter import LeRobotPolicyAdapter

    model, trainer = policy_of(run), run.trainer
    start, fields = start_of(model.init_from) if model.init_from else None, _fields(run)
    allow_download = bool(fields.pop("allow_download", False)) or run.allow_download
    adapter = LeRobotPolicyAdapter(
        model.policy_type,
        init_from=resolve_pretrained(resumed_from) if resumed_from else start,
        optimizer=trainer.optimizer,
        scheduler=trainer.scheduler,
        ema_decay=trainer.ema_decay,
        rename_map=run.data.rename_map or None,
        allow_download=allow_download,
        **fields,
    )
    adapter.resumed = resumed_from is not None
    return adapter


def described(run_settings: Mapping[str, Any], module: Any, datamodule: Any) -> dict[str, Any] | None:
    """Sections of the configuration of a run that was put together in Python, so that the command can resume it.

    Args:
        run_settings: Settings of the trainer.
        module: What is trained.
        datamodule: Its data.

    Returns:
        The sections `model`, `trainer` and `data`; None for modules that no configuration can name.
    """
    parts = [part.describe() for part in (datamodule, module) if hasattr(part, "describe")]
    if not hasattr(module, "describe"):
        return None
    sections: dict[str, dict[str, Any]] = {"model": {}, "trainer": {}, "data": {}}
    for part in parts:
        for name, values in part.items():
            # None is a value of a policy's field; elsewhere it says that nothing was given.
            sections[name] |= {key: value for key, value in values.items() if value is not None or name == "model"}
    trainer = {**run_settings, **sections["trainer"]}
    return {**sections, "trainer": trainer}
