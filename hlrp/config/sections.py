"""The sections `data`, `latents` and `env` of a run's configuration."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hlrp.config.base import Episodes, FilePath, Settings, parse_episodes, unique_episodes
from hlrp.config.tree import normalise


def _word_or_episodes(value: Any) -> Any:
    if value in ("all", "none"):
        return value
    try:
        return parse_episodes(value)
    except ValueError as error:
        raise ValueError(f"{error}; or one of the words all and none") from error


Labelled = Annotated[
    Literal["all", "none"] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)],
    BeforeValidator(_word_or_episodes, json_schema_input_type=list[int] | str),
]
"""Episodes, or `all` or `none` of them."""


class SourceSection(Settings):
    """One dataset of a mixture."""

    repo_id: str | None = Field(default=None, min_length=1)
    root: FilePath | None = None
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often this source is sampled, relative to the others."""
    labelled_episodes: Labelled | None = None
    """Episodes whose actions may be trained on: a list, `all` or `none`; not given: all if a policy is trained and the
    dataset has actions, and none for a quantizer."""
    table: FilePath | None = None
    """Latent table of this source; none: `latents.table` if it is of this source, else its column `latent_codes`."""
    rename_map: dict[str, str] = Field(default_factory=dict)
    """Feature of this source -> the name that a policy's other sources have it by, such as a camera's."""
    action_space: str | None = Field(default=None, min_length=1)
    """Name of what its actions and states mean; sources of one robot share it, those of others have another."""

    _unique = field_validator("labelled_episodes")(lambda v: unique_episodes(v) if isinstance(v, list) else v)

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if self.repo_id is None and self.root is None:
            raise ValueError("a source needs 'repo_id' or 'root'")
        return self


class ImageTransformSection(Settings):
    """One of LeRobot's image transforms."""

    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """How often it is drawn, relative to the others."""
    type: str = Field(default="Identity", min_length=1)
    """A class of torchvision.transforms.v2, or of LeRobot's own, such as SharpnessJitter."""
    kwargs: dict[str, Any] = Field(default_factory=dict)


class ImageTransformsSection(Settings):
    """Random changes of colour and place of the frames that are trained on, in LeRobot's terms."""

    enable: bool = False
    max_num_transforms: int = Field(default=3, ge=1)
    """Transforms that are drawn for each sample."""
    random_order: bool = False
    """Whether they are applied in the order drawn; else in the order of `tfs`."""
    tfs: dict[str, ImageTransformSection] | None = Field(default=None, min_length=1)
    """Transforms to draw from, in place of LeRobot's own six."""

    @property
    def lerobot_fields(self) -> dict[str, Any]:
        """What was set, by the names of LeRobot's `ImageTransformsConfig`; empty if nothing is to be transformed."""
        given = self.model_dump(exclude_unset=True, exclude=None if self.tfs else {"tfs"})
        return given if self.enable else {}


class MotionFilter(Settings):
    """Leave samples out whose picture hardly changes.

    Motion is the mean absolute difference, in grey levels of 0 to 255, of two small grey pictures: those of a window's
    first pair, or a policy's frame and the one `seconds` later.
    """

    below: float = Field(default=1.0, gt=0, le=255)
    """A run of frames is left out if its motion falls below this, in grey levels."""
    above: float | None = Field(default=None, gt=0, le=255)
    """A run ends where motion reaches this, in grey levels; none: twice `below`."""
    seconds: float | None = Field(default=None, gt=0, le=60)
    """Time between the two pictures, for policies; none: 0.5. Windows compare the frames of their own first pair."""
    min_seconds: float = Field(default=0.0, ge=0, le=3600)
    """Shorter runs are kept."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.above is not None and self.above < self.below:
            raise ValueError(f"'above' is {self.above:g}, less than 'below', {self.below:g}")
        return self

    @property
    def picture(self) -> tuple[float, float]:
        """Both thresholds of the picture's motion."""
        return self.below, self.above or 2 * self.below


class IdleFilter(Settings):
    """Leave runs of frames out in which neither the picture nor the robot moves.

    The robot's motion is the largest over the dimensions of `action` and `observation.state`: the change within
    `seconds` as a share of the dimension's range, or, of actions that are speeds, their mean as a share of the largest.
    """

    picture_below: float = Field(default=1.0, gt=0, le=255)
    """A run is left out if the picture's motion falls below this, in grey levels, while the robot's is low too."""
    picture_above: float | None = Field(default=None, gt=0, le=255)
    """A run ends where the picture's motion reaches this; none: twice `picture_below`."""
    robot_below: float = Field(default=0.02, gt=0, le=1)
    """The same of the robot's motion, as a share of its range."""
    robot_above: float | None = Field(default=None, gt=0, le=1)
    """A run ends where the robot's motion reaches this; none: twice `robot_below`."""
    seconds: float = Field(default=0.5, gt=0, le=60)
    """Time over which picture and robot are compared."""
    min_seconds: float = Field(default=1.0, ge=0, le=3600)
    """Shorter runs are kept."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name, below, above in (
            ("picture", self.picture_below, self.picture_above),
            ("robot", self.robot_below, self.robot_above),
        ):
            if above is not None and above < below:
                raise ValueError(f"'{name}_above' is {above:g}, less than '{name}_below', {below:g}")
        return self

    @property
    def picture(self) -> tuple[float, float]:
        """Both thresholds of the picture's motion."""
        return self.picture_below, self.picture_above or 2 * self.picture_below

    @property
    def robot(self) -> tuple[float, float]:
        """Both thresholds of the robot's motion."""
        return self.robot_below, self.robot_above or 2 * self.robot_below


def _short_form(key: str) -> Callable[[Any], Any]:
    """Reads `true` as the usual thresholds, `false` as none, and a number as the value of ``key``."""

    def read(value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        return {key: value} if isinstance(value, int | float) else value

    return read


class FilterSection(Settings):
    """Which frames no sample begins at, of every source; held-out episodes are never filtered."""

    motion: Annotated[
        MotionFilter | None,
        BeforeValidator(_short_form("below"), json_schema_input_type=MotionFilter | float | bool | None),
    ] = None
    """Leave out what does not move in the picture: true, a threshold in grey levels, or a mapping."""
    idle: Annotated[
        IdleFilter | None,
        BeforeValidator(_short_form("min_seconds"), json_schema_input_type=IdleFilter | float | bool | None),
    ] = None
    """Leave out runs in which neither picture nor robot moves: true, their least length in seconds, or a mapping."""

    @property
    def given(self) -> bool:
        """Whether anything may be left out."""
        return self.motion is not None or self.idle is not None


class DataSection(Settings):
    """What is trained on."""

    repo_id: str | None = Field(default=None, min_length=1)
    """Name of the dataset, such as lerobot/pusht."""
    root: FilePath | None = None
    """Folder of the dataset on this machine."""
    episodes: Episodes | None = None
    """Episodes to use: a list, or text such as "0-9,12"; none: all."""
    num_workers: int = Field(default=2, ge=0, le=1024)
    """Processes that read data; 0: the training process itself."""
    cache: Annotated[Literal["off", "ram", "disk"], BeforeValidator(lambda v: "off" if v is False else v)] = "off"
    """Where decoded frames are kept."""
    cache_limit_gb: float = Field(default=50.0, gt=0, allow_inf_nan=False)
    """Most decoded frames in the cache, in GB: beyond it `ram` is refused and `disk` drops; with `streaming`, most that
    stays of what was fetched."""
    streaming: bool = False
    """Read files when samples need them, and fetch those that are not here; drawn from some files at a time."""
    streaming_files: int | None = Field(default=None, ge=1, le=4096)
    """Video files of a camera that samples are drawn from at a time; none: 16, with cache=disk those of 64 episodes."""
    cameras: list[str] | None = Field(default=None, min_length=1)
    """Image features to read windows from, of every source; none: the only one there is."""
    num_frames: int | None = Field(default=None, ge=2)
    """Frames T of a label's window, the current one included; none: those of the labels, else 2."""
    offset_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time between neighbouring frames of the window; none: the latent model's own."""
    sources: list[SourceSection] = Field(default_factory=list)
    """A mixture of datasets, in place of `repo_id` and `root`."""
    video_backend: Literal["torchcodec", "pyav"] | None = None
    """What decodes videos: pyav (the default), or torchcodec where it can be loaded."""
    tolerance_s: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    """Most seconds between a frame's time in the table and the nearest frame of its video; beyond it, it is refused."""
    rename_map: dict[str, str] = Field(default_factory=dict)
    """Dataset key -> the key that a pretrained policy knows it by."""
    image_transforms: ImageTransformsSection = Field(default_factory=ImageTransformsSection)
    """Augmentation of the frames that are trained on; `true`: LeRobot's own."""
    filter: FilterSection = Field(default_factory=FilterSection)
    """Frames at which no training sample begins, because nothing moves there."""

    _unique = field_validator("episodes")(lambda value: value and unique_episodes(value))

    @model_validator(mode="before")
    @classmethod
    def _accept_spellings(cls, value: Any) -> Any:
        return normalise({"data": value})["data"] if isinstance(value, dict) else value

    @property
    def reading(self) -> dict[str, Any]:
        """How its datasets are opened: arguments of `hlrp.data.read_dataset`."""
        kept = self.cache_limit_gb if self.streaming else None
        return {"tolerance_s": self.tolerance_s, "video_backend": self.video_backend, "streamed_gb": kept}

    @model_validator(mode="after")
    def _check_one_place(self) -> Self:
        if self.sources and (self.repo_id is not None or self.root is not None or self.episodes is not None):
            raise ValueError("'sources' excludes 'repo_id', 'root' and 'episodes'; list every dataset under 'sources'")
        return self


class LatentsSection(Settings):
    """Where latent-action labels come from."""

    source: Literal["none", "precomputed", "online"] = "none"
    table: FilePath | None = None
    """Folder of a latent table; none with `precomputed`: the dataset's own column `latent_codes`."""
    laq: FilePath | None = None
    """Run of a latent action quantizer that labels while training (`online`)."""

    @model_validator(mode="before")
    @classmethod
    def _infer_source(cls, value: Any) -> Any:
        if isinstance(value, dict) and "source" not in value:
            if value.get("table") is not None and value.get("laq") is None:
                return value | {"source": "precomputed"}
            if value.get("laq") is not None and value.get("table") is None:
                return value | {"source": "online"}
        return value

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        if self.table is not None and self.source != "precomputed":
            raise ValueError(f"'table' needs source: precomputed, but source is {self.source}")
        if self.laq is not None and self.source != "online":
            raise ValueError(f"'laq' needs source: online, but source is {self.source}")
        if self.source == "online" and self.laq is None:
            raise ValueError("source: online needs 'laq', the run of a latent action quantizer")
        return self


class EnvSection(Settings):
    """A simulator. Keys other than these two are fields of LeRobot's configuration class of the environment."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1)
    """LeRobot's name of the environment, such as metaworld_light or pusht."""
    task: str | None = None

    @property
    def env_fields(self) -> dict[str, Any]:
        """The environment's own fields in the order given."""
        return dict(self.model_extra or {})
