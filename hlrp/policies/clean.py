"""What the clean classes of `hlrp.policies.lerobot` share: constructors that tell a given field from its default."""

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Concatenate, Self

from hlrp.config.aliases import alias_groups
from hlrp.data.lerobot_data_module import LeRobotDataModule
from hlrp.errors import UserError, suggest
from hlrp.policies.adapter import LeRobotPolicyAdapter

_PARAMETERS = inspect.signature(LeRobotPolicyAdapter.__init__).parameters.values()
OPTIONS = tuple(p.name for p in _PARAMETERS if p.kind is p.KEYWORD_ONLY)
"""Arguments of the adapter itself, which every clean class has beside the policy's fields."""


class CleanPolicy(LeRobotPolicyAdapter):
    """A LeRobot policy whose fields are arguments with types and defaults; see the subclasses.

    Defaults are shown, not applied: only what is given is set, so that everything else stays as LeRobot's class, or the
    checkpoint that the policy starts from, has it.
    """

    lerobot_type: ClassVar[str]
    """Name under which LeRobot knows the policy."""

    def __init__(self, **given: Any) -> None:
        asked = {name: value for name, value in given.items() if name in OPTIONS}
        fields = {name: plain(value) for name, value in given.items() if name not in asked}
        self.asked_device: str | None = fields.pop("device", None)
        start = fields.pop("pretrained_path", None)
        if start is not None and asked.get("init_from") is not None:
            raise _named_twice(type(self), ["init_from", "pretrained_path"], "init_from")
        if start is not None:
            asked["init_from"] = start
        super().__init__(self.lerobot_type, **asked, **fields)

    def setup(self, stage: str) -> None:
        """See the adapter; the policy's own device must be the trainer's."""
        trains_on = self.trainer.strategy.root_device.type
        if self.asked_device is not None and self.asked_device.partition(":")[0] != trains_on:
            raise UserError(
                f"the policy was asked for on {self.asked_device!r}, and the trainer runs on {trains_on!r}",
                where=f"{type(self).__name__}(device={self.asked_device!r})",
                fix=f"leave it out, and give LightningTrainer(device={self.asked_device!r})",
            )
        super().setup(stage)


def as_given[**P](init: Callable[P, None]) -> Callable[P, None]:
    """Decorate an `__init__` that is a signature only: what is given goes to `CleanPolicy`, checked by name.

    Raises:
        UserError: By the constructor: an argument that is none of the signature's, or two names of one field.
    """

    @functools.wraps(init)
    def take(self: Any, /, *unnamed: Any, **given: Any) -> None:
        if unnamed:
            raise UserError(
                f"{type(self).__name__} takes its fields by name, not {unnamed[0]!r} alone",
                fix=f"write {type(self).__name__}(chunk_size=...)",
            )
        _check_names(type(self), given, list(inspect.signature(init).parameters)[1:])
        CleanPolicy.__init__(self, **given)

    checked: Any = take
    return checked


def maker_for_dataset[**P, S](
    init: Callable[Concatenate[S, P], None],
) -> "classmethod[S, Concatenate[str | Path, P], S]":
    """`from_dataset` of a class with this `__init__`."""

    def from_dataset(cls: Any, dataset: Any, /, **given: Any) -> Any:
        """The policy with a dataset's features and statistics and weights at their start: to act, inspect or train.

        `LightningTrainer.fit` trains it as it is. (A policy that is only constructed is made by `fit` instead, with
        the random state of `lerobot-train`, so that its numbers are LeRobot's.)

        Args:
            cls: The class.
            dataset: Folder of the dataset, or the name of one that is on this machine.
            **given: As for the class; `device`: where it is made, the CPU if none is given.

        Raises:
            UserError: There is no such dataset, or the policy cannot use it.
        """
        policy = cls(**given)
        data = LeRobotDataModule(**find_dataset(dataset))
        policy.build(data.meta, device=policy.asked_device or "cpu", cameras=data.cameras)
        policy.policy.eval()
        return policy

    return _classmethod(from_dataset, init, "dataset")


def maker_from_pretrained[**P, S](
    init: Callable[Concatenate[S, P], None],
) -> "classmethod[S, Concatenate[str | Path, P], S]":
    """`from_pretrained` of a class with this `__init__`."""

    def from_pretrained(cls: Any, folder: Any, /, **given: Any) -> Any:
        """A trained policy, ready to act; `fit` goes on from its weights with the statistics of the new data.

        Args:
            cls: The class.
            folder: Run, checkpoint or `pretrained_model` folder.
            **given: As for the class, in place of the checkpoint's own; `device`: where it acts, the CPU if none is.

        Raises:
            UserError: The folder holds no policy of this kind, or its weights do not fit.
        """
        for name in ("init_from", "pretrained_path"):
            if given.pop(name, None) is not None:
                raise UserError(f"the folder is given already, and {name!r} beside it", fix=f"leave {name!r} out")
        device = given.pop("device", None) or "cpu"
        return LeRobotPolicyAdapter.from_pretrained.__func__(cls, folder, device=device, **given)  # type: ignore[attr-defined]

    return _classmethod(from_pretrained, init, "folder")


def _classmethod(function: Any, init: Callable[..., None], first: str) -> Any:
    """A class method whose signature is that of the class, after one argument by position."""
    own, *fields = inspect.signature(init).parameters.values()
    by_place = inspect.Parameter.POSITIONAL_ONLY
    start = [own.replace(name="cls", kind=by_place), inspect.Parameter(first, by_place, annotation=str | Path)]
    function.__signature__ = inspect.Signature([*start, *fields], return_annotation=Self)
    return classmethod(function)


def find_dataset(dataset: str | Path) -> dict[str, Any]:
    """Arguments of `LeRobotDataModule` for a folder, or for the name of a dataset that is on this machine."""
    named = isinstance(dataset, str) and dataset.count("/") == 1 and not Path(dataset).exists()
    return {"repo_id": dataset} if named else {"root": Path(dataset)}


def _check_names(cls: type[CleanPolicy], given: Mapping[str, Any], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{cls.__name__} has no argument {name!r}", where=cls.__name__, fix=suggest(name, known))
    for names in alias_groups(cls.lerobot_type):
        both = [name for name in names if name in given]
        if len(both) > 1:
            raise _named_twice(cls, both, names[0])


def _named_twice(cls: type[CleanPolicy], names: list[str], field: str) -> UserError:
    said = " and ".join(repr(name) for name in names)
    return UserError(
        f"{said} are the same field of policy {cls.lerobot_type!r}", where=cls.__name__, fix=f"keep {field!r}"
    )


def plain(value: Any) -> Any:
    """A field's value as a configuration file has it: LeRobot's enumerations and dataclasses as text and dict."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    import draccus

    return draccus.encode(value)


def frozen(value: Any) -> Any:
    """A default to look at that cannot be changed: lists as tuples, dicts read-only."""
    if isinstance(value, dict):
        return MappingProxyType({key: frozen(item) for key, item in value.items()})
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value
