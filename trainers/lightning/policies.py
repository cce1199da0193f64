"""LeRobot's policies in the Lightning trainer: what a run's settings mean for them."""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.aliases import resolve_policy_aliases
from hlrp.catalog import FieldInfo, cached_catalog
from hlrp.config import LightningRun, LightningTrainerSection, PolicyModel
from hlrp.data.dataset_info import DatasetInfo, read_dataset
from hlrp.errors import UserError
from hlrp.runs import resolve_pretrained
from trainers.policy_checks import DTYPES, policy_fields, policy_of, start_of
from trainers.policy_labels import mixture_of

if TYPE_CHECKING:
    from hlrp.policies.adapter import LeRobotPolicyAdapter

_PRECISIONS = {dtype: precision for precision, dtype in DTYPES.items()}
_FIND_UNUSED = "ddp_find_unused_parameters_true"
# Settings of the trainer with which it makes a policy, and data.
_OF_POLICIES = ("learning_rate", "optimizer", "scheduler", "ema_decay")
_OF_DATA = ("batch_size", "eval_split", "seed")


def _known(policy_type: str) -> Mapping[str, FieldInfo]:
    catalog = cached_catalog()
    return catalog.policies[policy_type].fields if catalog and policy_type in catalog.policies else {}


def resolve_defaults(run: LightningRun) -> LightningTrainerSection:
    """The `trainer` section with what LeRobot's training does where the run does not say otherwise.

    Its processes allow for parameters that a step does not use, and it computes in the policy's own `dtype`.
    """
    section = run.trainer
    if not isinstance(run.model, PolicyModel):
        return section
    changes: dict[str, Any] = {}
    if section.processes > 1 and section.strategy in ("auto", "ddp"):
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
    start = start_of(model.init_from) if model.init_from else None
    fields = policy_fields(run, _labelled_while_training(run), _known(model.policy_type))
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


def _labelled_while_training(run: LightningRun) -> DatasetInfo | None:
    """The dataset whose frames per second decide which frames a label is made from; None: labels are not made so."""
    if run.latents.source != "online":
        return None
    mixture = mixture_of(run)
    return mixture.info if mixture is not None else read_dataset(run.data.repo_id, run.data.root)


def to_sections(run_settings: Mapping[str, Any], module: Any, datamodule: Any) -> dict[str, Any] | None:
    """Sections of the configuration of a run that was put together in Python, so that the command can resume it.

    Args:
        run_settings: Settings of the trainer.
        module: What is trained.
        datamodule: Its data.

    Returns:
        The sections `model`, `trainer` and `data`; None for modules that no configuration can name.

    Raises:
        UserError: The trainer was given what module or data have themselves, and have otherwise.
    """
    sections: dict[str, dict[str, Any]] = {"model": {}, "trainer": {}, "data": {}}
    for part in (datamodule, module):
        for name, values in part.describe().items() if hasattr(part, "describe") else ():
            # None is a value of a policy's field; elsewhere it says that nothing was given.
            sections[name] |= {key: value for key, value in values.items() if value is not None or name == "model"}
    _refuse_what_the_parts_have(run_settings, sections, module, datamodule)
    if not hasattr(module, "describe"):
        return None
    trainer = {**run_settings, **sections["trainer"]}
    return {**sections, "trainer": trainer}


def _refuse_what_the_parts_have(
    run_settings: Mapping[str, Any], sections: Mapping[str, dict[str, Any]], module: Any, datamodule: Any
) -> None:
    """Refuse settings of the trainer that act where it makes module and data, beside parts that have others."""
    have = {"batch_size": getattr(datamodule, "batch_size", None), **sections["trainer"]}
    owners = {name: datamodule for name in _OF_DATA if have.get(name) is not None}
    if sections["model"]:
        model = dict(sections["model"])
        have["learning_rate"] = resolve_policy_aliases(model.pop("policy_type"), model).get("optimizer_lr")
        owners |= dict.fromkeys(_OF_POLICIES, module)
    for name, owner in owners.items():
        given, there, cls = run_settings.get(name), have.get(name), type(owner).__name__
        if given is not None and given != there:
            raise UserError(
                f"the trainer's {name} ({given!r}) does not reach the {cls} that it is given, "
                + (f"whose own is {there!r}" if there is not None else "which has its own"),
                where=f"LightningTrainer({name}=...)",
                fix=f"leave it out, and give {cls}({name}={given!r})",
            )
