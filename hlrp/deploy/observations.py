"""From what a client sent to an observation that fits the policy, or to words that say what does not fit."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hlrp.camera_names import with_only_camera
from hlrp.deploy.protocol import MessageError, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROMPT = ("prompt", "task")
RESET = "reset"
CONTROL = "__ctrl__"
"""What newer clients of openpi say at an episode's ends; answered, and both mean a reset."""
_CONTROLS = ("episode_start", "episode_end")
_LONGEST_PROMPT = 4096
_DEEPEST = 4
_TASKS_SHOWN = 10


@dataclass(frozen=True)
class Input:
    """A feature that a policy reads.

    Args:
        shape: (C, H, W) of a picture, else that of the numbers.
        picture: Whether it is one.
        optional: The policy can do without, as long as there is another picture.
        empty: A picture that nobody gives.
    """

    shape: tuple[int, ...]
    picture: bool
    optional: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Request:
    """A message, understood.

    Args:
        arrays: By the client's names in LeRobot's spelling: pictures uint8 `[C, H, W]`, all else float32.
        prompt: The instruction; '' if none is given or known.
        reset: An episode begins with this.
        control: The word of a `__ctrl__` message; such a message holds no observation.
        unknown: Keys that the policy has no use for.
        renamed: What is said of a camera that goes by another name.
    """

    arrays: "dict[str, NDArray[Any]]" = field(default_factory=dict)
    prompt: str = ""
    reset: bool = False
    control: str | None = None
    unknown: tuple[str, ...] = ()
    renamed: str | None = None


class ObservationReader:
    """Checks messages against what a policy reads.

    Keys are LeRobot's names (`observation.images.top`), or openpi's: `observation/image`, `images/top`, `state`, and
    maps within maps (`{"images": {"top": ...}}`). The only camera of both sides may have no name on one of them.

    Args:
        inputs: What the policy reads, by its own names.
        rename: A client's name to the policy's, as for `hlrp eval --rename-map`.
        resizes: Whether the policy makes pictures of any size fit.
        language: Whether it reads an instruction.
        task: The instruction where a message has none.
        known: Instructions that the policy can be given; None: any.
    """

    def __init__(
        self,
        inputs: Mapping[str, Input],
        rename: Mapping[str, str],
        *,
        resizes: bool,
        language: bool,
        task: str | None = None,
        known: Collection[str] | None = None,
    ) -> None:
        self.known_tasks = known
        """Instructions that the policy can be given; None: any."""
        self.example_prompt = next(iter(known), "") if known is not None else "go"
        """One of them."""
        self._inputs, self._rename = dict(inputs), dict(rename)
        self._resizes, self._language, self._task = resizes, language, task
        given = {policy: client for client, policy in self._rename.items()}
        self.names = {name: given.get(name, name) for name in self._inputs}
        """The policy's names to those a client is told to send."""

    def read(self, message: object) -> Request:
        """What a message asks for.

        Raises:
            MessageError: It does not fit the policy.
        """
        if not isinstance(message, dict):
            raise MessageError(f"an observation is a map of names to arrays, not {type(message).__name__}")
        values: dict[str, Any] = {}
        for key, value in _flat(message):
            if key in values:
                raise MessageError(f"{shown(key)} is there twice")
            values[key] = value
        if CONTROL in values:
            control = values[CONTROL]
            if not isinstance(control, str) or control not in _CONTROLS:
                raise MessageError(f"{CONTROL} is {shown(control)}; known: {', '.join(_CONTROLS)}")
            return Request(reset=True, control=control)
        reset = values.pop(RESET, False)
        if not isinstance(reset, bool | np.bool_):
            raise MessageError(f"{RESET} is true or false, not {shown(reset)}")
        if reset and not values:
            return Request(reset=True)
        prompt = self._prompt(values)
        said: list[str] = []
        rename = with_only_camera(map(_spelled, values), self._inputs, self._rename, said.append)
        arrays, unknown = self._arrays(values, rename)
        return Request(arrays, prompt, bool(reset), None, unknown, next(iter(said), None))

    def _prompt(self, values: dict[str, object]) -> str:
        given = [(key, values.pop(key)) for key in PROMPT if key in values]
        if len(given) > 1:
            raise MessageError("an observation has one of 'prompt' and 'task', not both")
        if not given:
            if self._task is None and self._language:
                raise MessageError("the policy reads an instruction: send it as 'prompt'")
            return self._task or ""
        key, text = given[0]
        if not isinstance(text, str) or len(text) > _LONGEST_PROMPT:
            raise MessageError(f"{key!r} is a text of at most {_LONGEST_PROMPT} characters, not {shown(text)}")
        if self.known_tasks is not None and text not in self.known_tasks:
            known = ", ".join(map(shown, sorted(self.known_tasks)[:_TASKS_SHOWN]))
            raise MessageError(f"the policy was exported without the instruction {shown(text)}; it knows {known}")
        return text

    def _arrays(
        self, values: Mapping[str, object], rename: Mapping[str, str]
    ) -> "tuple[dict[str, NDArray[Any]], tuple[str, ...]]":
        arrays: dict[str, NDArray[Any]] = {}
        given: dict[str, str] = {}
        unknown = []
        for key, value in values.items():
            name = self._known(key, rename)
            if name is None:
                unknown.append(shown(key))
                continue
            policy_name = rename.get(name, name)
            if policy_name in given:
                raise MessageError(f"{shown(key)} and {shown(given[policy_name])} are the same input {policy_name!r}")
            given[policy_name] = key
            wanted = self._inputs[policy_name]
            # The policy's own preprocessor renames as it was told when it was loaded.
            sent = name if self._rename.get(name, name) == policy_name else self.names[policy_name]
            arrays[sent] = self._picture(name, value, wanted) if wanted.picture else _numbers(name, value, wanted)
        sees = any(self._inputs[name].picture for name in given)
        missing = [
            self.names[k]
            for k, wanted in self._inputs.items()
            if k not in given and not wanted.empty and not (wanted.optional and sees)
        ]
        if missing:
            extra = f"; not known: {', '.join(unknown[:5])}" if unknown else ""
            raise MessageError(f"the observation lacks {', '.join(missing)}{extra}")
        return arrays, tuple(unknown)

    def _known(self, key: str, rename: Mapping[str, str]) -> str | None:
        names = (key.replace("/", "."), _spelled(key))
        return next((name for name in names if rename.get(name, name) in self._inputs), None)

    def _picture(self, name: str, value: object, wanted: Input) -> "NDArray[np.uint8]":
        channels, height, width = wanted.shape
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or 0 in value.shape:
            raise MessageError(
                f"{name!r} is a picture: uint8 [H, W, {channels}] or [{channels}, H, W], not {_kind(value)}"
            )
        first, last = value.shape[0] == channels, value.shape[2] == channels
        if first and last:
            # Three rows or columns of pixels: only the size that the policy was trained with tells the axes apart.
            first, last = value.shape == wanted.shape, value.shape == (height, width, channels)
        if first == last:
            raise MessageError(f"{name!r} has {channels} channels, first or last, not the shape {list(value.shape)}")
        picture = value.transpose(2, 0, 1) if last else value
        if picture.shape[1:] != (height, width) and not self._resizes:
            raise MessageError(
                f"{name!r} is {picture.shape[2]}x{picture.shape[1]} pixels (width x height), the policy was trained on "
                f"{width}x{height} and does not resize: resize it before sending"
            )
        # A copy of its own: the message's bytes cannot be written, which torch warns of.
        return np.array(picture, order="C")


def _numbers(name: str, value: object, wanted: Input) -> "NDArray[np.float32]":
    plain = isinstance(value, list) and all(type(number) in (int, float) for number in value)
    if not plain and not isinstance(value, np.ndarray):
        raise MessageError(f"{name!r} is an array of numbers, not {_kind(value)}")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = np.array(value, np.float32)
    except OverflowError as error:
        raise MessageError(f"{name!r} holds numbers that are not finite") from error
    if numbers.shape != wanted.shape:
        raise MessageError(f"{name!r} has the shape {list(numbers.shape)}, the policy takes {list(wanted.shape)}")
    if not np.isfinite(numbers).all():
        raise MessageError(f"{name!r} holds numbers that are not finite")
    return numbers


def _spelled(key: str) -> str:
    """A client's name as LeRobot spells it."""
    dotted = key.replace("/", ".")
    return dotted if dotted.startswith("observation.") else f"observation.{dotted}"


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _flat(message: Mapping[Any, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    for key, value in message.items():
        if not isinstance(key, str):
            raise MessageError(f"names are text, not {shown(key)}")
        if isinstance(value, dict):
            if depth == _DEEPEST:
                raise MessageError(f"maps lie at most {_DEEPEST} deep in each other")
            yield from _flat(value, f"{prefix}{key}/", depth + 1)
        else:
            yield f"{prefix}{key}", value
