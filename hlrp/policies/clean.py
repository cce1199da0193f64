"""What the clean classes of `hlrp.policies.lerobot` share: arguments by name, of which the given ones alone count."""

import ast
import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from hlrp.aliases import alias_groups
from hlrp.data.lerobot_data_module import LeRobotDataModule
from hlrp.errors import UserError, suggest
from hlrp.policies.adapter import LeRobotPolicyAdapter
from hlrp.runs import resolve_pretrained

_PARAMETERS = inspect.signature(LeRobotPolicyAdapter.__init__).parameters.values()
OPTIONS = tuple(p.name for p in _PARAMETERS if p.kind is p.KEYWORD_ONLY)
"""Arguments of the adapter itself, which every clean class has beside the policy's fields."""


class CleanPolicy(LeRobotPolicyAdapter):
    """A LeRobot policy whose fields are arguments with types and defaults; see the subclasses.

    A subclass is its name, `lerobot_type` and what its own fields mean. The stub (`.pyi`) beside its module has the
    arguments, for editors and type checkers; the signature that Python shows, and names are checked by, is read from
    there. Defaults are shown, not applied: only what is given is set, so that everything else stays as LeRobot's class,
    or the checkpoint that the policy starts from, has it.

    Every policy takes the options of `LeRobotPolicyAdapter`, and these fields.

    Fields:
        n_obs_steps: Observations that the policy sees: the current one and those before it.
        input_features: Features that the policy reads; taken from the data where none are given.
        output_features: Features that the policy predicts; taken from the data where none are given.
        normalization_mapping: Kind of feature (VISUAL, STATE, ACTION) to how it is normalised.
        device: Where `from_dataset` and `from_pretrained` make the policy; training is on the trainer's `device`.
        use_amp: Mixed precision of LeRobot's own loop; in Lightning it is the trainer's `precision`.
        use_peft: Whether the policy was trained with PEFT.
        push_to_hub: Whether LeRobot's own training uploads the result; Lightning's does not.
        repo_id: Name of the policy on the hub.
        private: Whether its repository is private.
        tags: Tags of the repository.
        license: Licence of the repository.
        init_from: Run, checkpoint or `pretrained_model` folder to start from.
        pretrained_path: Another name of `init_from`.
        pretrained_revision: Hub revision of the pretrained weights: commit, branch or tag.

    Raises:
        UserError: A field without its name, an unknown name, or two names of one field.
    """

    lerobot_type: ClassVar[str]
    """Name under which LeRobot knows the policy."""
    arguments: ClassVar[Mapping[str, inspect.Parameter]]
    """All that the class takes, by name."""
    __signature__: ClassVar[inspect.Signature | None]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "lerobot_type" in vars(cls):
            cls.arguments = _stub_arguments(cls)
            cls.__signature__ = inspect.Signature(list(cls.arguments.values()))
        elif "__init__" in vars(cls):
            cls.__signature__ = None  # not that of the class above: `inspect` then reads the `__init__`

    def __init__(self, *unnamed: Any, **given: Any) -> None:
        if unnamed:
            raise UserError(
                f"{type(self).__name__} takes its fields by name, not {unnamed[0]!r} alone",
                fix=f"write {type(self).__name__}(chunk_size=...)",
            )
        self._check_names(given)
        asked = {name: value for name, value in given.items() if name in OPTIONS}
        fields = {name: plain(value) for name, value in given.items() if name not in asked}
        self.asked_device: str | None = fields.pop("device", None)
        start = fields.pop("pretrained_path", None)
        if start is not None and asked.get("init_from") is not None:
            raise self._named_twice(["init_from", "pretrained_path"], "init_from")
        if start is not None:
            asked["init_from"] = start
        super().__init__(self.lerobot_type, **asked, **fields)

    @classmethod
    def from_dataset[**P, S](cls: Callable[P, S], dataset: str | Path, /, *unnamed: P.args, **given: P.kwargs) -> S:
        """The policy with a dataset's features and statistics and weights at their start: to act, inspect or train.

        `LightningTrainer.fit` trains it as it is. (A policy that is only constructed is made by `fit` instead, with
        the random state of `lerobot-train`, so that its numbers are LeRobot's.)

        Args:
            dataset: Folder of the dataset, or the name of one that is on this machine.
            *unnamed: None: fields are given by name.
            **given: As for the class; `device`: where it is made, the CPU if none is given.

        Raises:
            UserError: There is no such dataset, or the policy cannot use it.
        """
        policy: Any = cls(*unnamed, **given)
        data = LeRobotDataModule(**find_dataset(dataset))
        policy.build(data.meta, device=policy.asked_device or "cpu", cameras=data.cameras)
        policy.policy.eval()
        return policy

    @classmethod
    def from_pretrained[**P, S](  # type: ignore[override]
        cls: Callable[P, S], folder: str | Path, /, *unnamed: P.args, **given: P.kwargs
    ) -> S:
        """A trained policy, ready to act; `fit` goes on from its weights with the statistics of the new data.

        Args:
            folder: Run, checkpoint or `pretrained_model` folder.
            *unnamed: None: fields are given by name.
            **given: As for the class, in place of the checkpoint's own; `device`: where it acts, the CPU if none is.

        Raises:
            UserError: The folder holds no policy of this kind, or its weights do not fit.
        """
        arguments: dict[str, Any] = dict(given)
        for name in ("init_from", "pretrained_path"):
            if arguments.pop(name, None) is not None:
                raise UserError(f"the folder is given already, and {name!r} beside it", fix=f"leave {name!r} out")
        device = arguments.pop("device", None) or "cpu"
        make: Any = cls
        policy = make(*unnamed, init_from=resolve_pretrained(Path(folder)), **arguments)
        policy.load(device)
        return policy

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

    def _check_names(self, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in self.arguments:
                cls = type(self).__name__
                raise UserError(f"{cls} has no argument {name!r}", where=cls, fix=suggest(name, self.arguments))
        for names in alias_groups(self.lerobot_type):
            both = [name for name in names if name in given]
            if len(both) > 1:
                raise self._named_twice(both, names[0])

    def _named_twice(self, names: list[str], field: str) -> UserError:
        said = " and ".join(repr(name) for name in names)
        policy, where = f"policy {self.lerobot_type!r}", type(self).__name__
        return UserError(f"{said} are the same field of {policy}", where=where, fix=f"keep {field!r}")


def _stub_arguments(cls: type) -> dict[str, inspect.Parameter]:
    """What the stub beside the module of a class says that it takes."""
    stub = ast.parse(Path(inspect.getfile(cls)).with_suffix(".pyi").read_text(encoding="utf8"))
    (init,) = (node.args for node in ast.walk(stub) if isinstance(node, ast.FunctionDef))
    found = {}
    for argument, default in zip(init.kwonlyargs, init.kw_defaults, strict=True):
        assert argument.annotation is not None and default is not None
        shown, hint = frozen(ast.literal_eval(default)), ast.unparse(argument.annotation)
        found[argument.arg] = inspect.Parameter(
            argument.arg, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=hint
        )
    return found


def find_dataset(dataset: str | Path) -> dict[str, Any]:
    """Arguments of `LeRobotDataModule` for a folder, or for the name of a dataset that is on this machine."""
    named = isinstance(dataset, str) and dataset.count("/") == 1 and not Path(dataset).exists()
    return {"repo_id": dataset} if named else {"root": Path(dataset)}


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
