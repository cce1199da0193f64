"""Base classes of the configuration's sections, and the types of their values."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """Base of all parts of the schema: immutable, and unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        ser_json_inf_nan="constants",
    )


_MOST = 10**12
SEED_MOST = 2**32 - 1  # of NumPy's and Lightning's generators


class Settings(Section):
    """A section with values of its own, numbers among them."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts True as 1, and so would pydantic.
        if isinstance(value, bool) and info.field_name:
            types = _plain_types(cls.model_fields[info.field_name].annotation)
            if types & {int, float} and bool not in types:
                raise PydanticCustomError("number_expected", "should be a number")
        if isinstance(value, int) and abs(value) > _MOST:
            raise PydanticCustomError("number_too_large", "is larger than anything that is counted here")
        return value


def _plain_types(annotation: Any) -> set[Any]:
    """Return the types that a union or annotated type consists of."""
    parts = get_args(annotation)
    if not parts or get_origin(annotation) in (list, dict, Literal):
        return {annotation}
    return set().union(*map(_plain_types, parts))


def _precision(value: Any) -> Any:
    names = {"32-true": "32", "fp32": "32", "float32": "32", "bf16-mixed": "bf16", "16-mixed": "fp16", "16": "fp16"}
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return names.get(text, text) if isinstance(text, str) else text


_MOST_EPISODES = 10_000_000


def parse_episodes(value: Any) -> Any:
    """Turn ``"0-9,12"`` or a single number into a list of episode indices; leave all else to validation."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        return value
    episodes: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"cannot read {part.strip()!r}; write a list, or ranges such as '0-9,12'")
        if dash and int(last) < int(first):
            raise ValueError(f"the range {part.strip()!r} runs backwards")
        if int(last or first) - int(first) >= _MOST_EPISODES:
            raise ValueError(f"the range {part.strip()!r} is longer than {_MOST_EPISODES} episodes")
        episodes.extend(range(int(first), int(last or first) + 1))
    return episodes


def unique_episodes(value: list[int]) -> list[int]:
    """The episodes, ascending; for validators.

    Raises:
        ValueError: One is given twice.
    """
    repeated = [episode for episode, count in Counter(value).items() if count > 1]
    if repeated:
        raise ValueError(f"episode {repeated[0]} is given more than once")
    # One order for all who read it: LeRobot holds the last ones out as they are listed.
    return sorted(value)


def _expand_user(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str) and value.startswith("~") else value


FilePath = Annotated[Path, BeforeValidator(_expand_user)]
Precision = Annotated[Literal["32", "bf16", "fp16"], BeforeValidator(_precision)]
Device = Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")]
Episodes = Annotated[
    list[Annotated[int, Field(ge=0)]],
    Field(min_length=1),
    BeforeValidator(parse_episodes, json_schema_input_type=list[int] | str),
]
