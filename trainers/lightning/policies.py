"""LeRobot's policies in the Lightning trainer: what a run's settings mean for them."""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def refuse_other_precision(run: LightningRun) -> None:
    """Refuse a precision that sets a policy's `dtype` when it is made, for a policy that is given as it is.

    Raises:
        UserError: The policy has a `dtype`, and it is another one.
    """
    precision, dtype = run.trainer.precision, _dtype(run)
    if precision is None or not dtype or "dtype" in policy_of(run).policy_fields or dtype == DTYPES[precision]:
        return
    raise UserError(
        f"the trainer's precision ({precision!r}) does not reach the policy that it is given, whose dtype is {dtype!r}",
        where="LightningTrainer(precision=...)",
        fix=f"give the policy dtype={DTYPES[precision]!r} beside it",
    )


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
        init_from=start,
        optimizer=trainer.optimizer,
        scheduler=trainer.scheduler,
        ema_decay=trainer.ema_decay,
        rename_map=run.data.rename_map or None,
        allow_download=allow_download,
        **fields,
    )
    if resumed_from is not None:
        go_on_from(adapter, resumed_from)
    return adapter


def go_on_from(adapter: "LeRobotPolicyAdapter", checkpoint: Path) -> None:
    """Have a policy made from a checkpoint of the run that it goes on with: its configuration and processors."""
    adapter.init_from, adapter.resumed = resolve_pretrained(checkpoint), True


def _labelled_while_training(run: LightningRun) -> DatasetInfo | None:
    """The dataset whose frames per second decide which frames a label is made from; None: labels are not made so."""
    if run.latents.source != "online":
        return None
    mixture = mixture_of(run)
    return mixture.info if mixture is not None else read_dataset(run.data.repo_id, run.data.root)
