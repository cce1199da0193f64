"""Runs that are put together in Python: their configuration, and what of them no configuration can say."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hlrp.aliases import resolve_policy_aliases
from hlrp.config import LightningRun, LightningTrainerSection
from hlrp.errors import UserError

if TYPE_CHECKING:
    from hlrp.runs import RunDirectory

# Settings of the trainer with which it makes a policy, and data.
_OF_POLICIES = ("learning_rate", "optimizer", "scheduler", "ema_decay")
_OF_DATA = ("batch_size", "eval_split", "seed")


def run_of(settings: Mapping[str, Any], module: Any, datamodule: Any) -> LightningRun:
    """The configuration of a run that was put together in Python, so that the command can resume it.

    Args:
        settings: Of the trainer.
        module: What is trained; a policy describes itself, of any other the class alone is recorded.
        datamodule: Its data.

    Raises:
        UserError: There is no module, a setting cannot be, or the trainer was given what module or data have
            themselves, and have otherwise.
    """
    if module is None:
        raise UserError("nothing says what to train", fix="give a module, or run=LightningRun(...)")
    described: dict[str, dict[str, Any]] = {"model": {}, "trainer": {}, "data": {}}
    for part in (datamodule, module):
        for name, values in part.describe().items() if hasattr(part, "describe") else ():
            # None is a value of a policy's field; elsewhere it says that nothing was given.
            described[name] |= {key: value for key, value in values.items() if value is not None or name == "model"}
    _refuse_what_the_parts_have(settings, described, module, datamodule)
    sections: dict[str, Any] = {**described, "trainer": {**settings, **described["trainer"]}}
    if not described["model"]:
        cls = type(module)
        # The record of a module made in Python: it can be looked at, and resumed with the module given again.
        place = ".".join(part for part in f"{cls.__module__}.{cls.__qualname__}".split(".") if part.isidentifier())
        sections = {"trainer": settings, "model": {"class_path": place}}
    try:
        section = LightningTrainerSection(**sections["trainer"])
        return LightningRun(**{**sections, "trainer_type": "lightning", "trainer": section})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            where="LightningTrainer(...)" if first["loc"][:1] != ("model",) else type(module).__name__,
            fix=f"settings are {', '.join(LightningTrainerSection.model_fields)}",
        ) from error


def _refuse_what_the_parts_have(
    settings: Mapping[str, Any], described: Mapping[str, dict[str, Any]], module: Any, datamodule: Any
) -> None:
    """Refuse settings of the trainer that act where it makes module and data, beside parts that have others."""
    have = {"batch_size": getattr(datamodule, "batch_size", None), **described["trainer"]}
    owners = {name: datamodule for name in _OF_DATA if have.get(name) is not None}
    if described["model"]:
        model = dict(described["model"])
        have["learning_rate"] = resolve_policy_aliases(model.pop("policy_type"), model).get("optimizer_lr")
        owners |= dict.fromkeys(_OF_POLICIES, module)
    for name, owner in owners.items():
        given, there, cls = settings.get(name), have.get(name), type(owner).__name__
        if given is not None and given != there:
            raise UserError(
                f"the trainer's {name} ({given!r}) does not reach the {cls} that it is given, "
                + (f"whose own is {there!r}" if there is not None else "which has its own"),
                where=f"LightningTrainer({name}=...)",
                fix=f"leave it out, and give {cls}({name}={given!r})",
            )


def undescribed(module: Any, datamodule: Any) -> dict[str, str]:
    """What of a policy's run in Python its configuration leaves out, so that it goes on in Python alone.

    Returns:
        Of `module` and `datamodule` those that have something of the kind, with what it is, such as
        `LeRobotDataModule(max_val_samples=...)`; empty for modules of which no more than the class is recorded.
    """
    found: dict[str, str] = {}
    for name, part in {"module": module, "datamodule": datamodule}.items():
        if not hasattr(module, "describe") or not hasattr(part, "describe"):
            continue
        cls = type(part)
        if cls.__module__.partition(".")[0] != "hlrp":  # it may override anything
            found[name] = f"the class {cls.__qualname__}"
        elif arguments := part.undescribed():
            found[name] = f"{cls.__name__}({', '.join(f'{argument}=...' for argument in arguments)})"
    return found


def refuse_to_go_on_without(directory: "RunDirectory", module: Any = None, datamodule: Any = None) -> None:
    """Refuse to go on with a run from its configuration alone where that leaves a part of it out.

    Args:
        directory: The run.
        module: What is trained, if it is given again.
        datamodule: Its data, if they are.

    Raises:
        UserError: Naming what has to be given again.
    """
    given = {"module": module, "datamodule": datamodule}
    missing = {name: what for name, what in directory.manifest.undescribed.items() if given.get(name) is None}
    if missing:
        raise UserError(
            f"this run was begun in Python with {' and '.join(missing.values())}, which its configuration cannot say",
            where=str(directory.path),
            fix="go on in Python: LightningTrainer().resume(RunDirectory.open(Path(RUN)), "
            f"load_config(RUN + '/config.yaml').config, {', '.join(f'{name}=...' for name in missing)})",
        )
