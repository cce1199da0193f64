"""The map from latents to actions: fitted on a few labelled episodes, scored on held-out ones, kept in a folder.

Shapes: n frames of an episode, A action dimensions, H steps of a chunk, W windows read for a step, T frames of a window,
S code positions, D width of a vector.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hlrp.data.dataset_info import DatasetInfo
from hlrp.latents.spec import CodeSpec
from hlrp.latents.table import LatentTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
SCHEMA_VERSION = 1
_KIND = "action_decoder"

FLOOR = 0.5
"""Held-out R2 below which a dimension is not trusted: in docs/actions.md, why."""

Estimator = Literal["ridge", "ensemble"]
Inputs = Literal["vectors", "codes"]
ActionForm = Literal["direct", "state_difference"]


class ActionDimension(BaseModel):
    """One dimension of the action: what it is, and how well the latents tell it on episodes that were held out.

    Every R2 is against the mean of the labelled episodes: 1 is perfect, 0 that mean's own score. For a dimension with a
    `state` it is of the difference to the state, which is what the latents have to tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    kind: Literal["regression", "classification", "constant"]
    values: list[float] | None = None
    """The values that were seen, of a classification or a constant."""
    state: int | None = None
    """Dimension of `observation.state` to which the difference is predicted; none: the action itself is."""
    r2: float | None
    """Held-out R2; none for a constant."""
    spread: float | None
    """Standard deviation of the held-out predictions over that of the labelled actions, before `factor`."""
    factor: float = 1.0
    """What predictions are stretched by about their mean."""
    accuracy: float | None = None
    """Share of held-out steps whose value is told right, of a classification."""
    confidence: float = Field(ge=0, le=1)
    """`r2`, 0 where it is below the floor; 1 for a constant."""
    no_motion: float | None
    """R2 of the prediction 0: no action, or the state that already is."""
    replay: float | None
    """R2 of repeating the last labelled episode before (of the same task where there is one), step by step."""
    by_task: dict[str, float | None] = {}
    """Held-out R2 within each task, against that task's own mean."""


class DecoderManifest(BaseModel):
    """What an action decoder is, beside its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    schema_version: int
    kind: str
    hlrp_version: str
    spec: CodeSpec
    """What the latents mean that it reads."""
    dataset: str
    """Name of the dataset that it was fitted on."""
    dataset_fingerprint: str
    camera: str
    fps: float
    episodes: list[int]
    """The labelled episodes, ascending: no action of another one was read."""
    estimator: Estimator
    inputs: Inputs
    offsets: list[int]
    """Frames, relative to a step, at which the windows begin that are read for it."""
    horizon: int = Field(ge=1)
    """Actions H that are predicted from a step on."""
    action_form: ActionForm
    state_width: int | None
    """Width of `observation.state` where differences to it are predicted."""
    dimensions: list[ActionDimension]
    held_out: Literal["episodes", "blocks"]
    """What was left out for the scores: whole episodes, or blocks of the only one."""
    floor: float
    seed: int
    weights_sha256: str

    @property
    def action_names(self) -> list[str]:
        """Names of the action's dimensions."""
        return [d.name for d in self.dimensions]

    @property
    def r2(self) -> float | None:
        """Mean held-out R2 over the dimensions that vary; none if none does."""
        scores = [d.r2 for d in self.dimensions if d.r2 is not None]
        return float(np.mean(scores)) if scores else None

    @property
    def below_floor(self) -> list[ActionDimension]:
        """Dimensions that must not be trusted."""
        return [d for d in self.dimensions if d.r2 is not None and d.r2 < self.floor]


class EpisodeActions(NamedTuple):
    """Decoded actions of an episode.

    Args:
        actions: float32 ``[n, A]``, in the dataset's units; 0 where not known.
        confidence: float32 ``[n, A]`` in ``[0, 1]``: `ActionDimension.confidence`, 0 where not known.
        known: bool ``[n]``: at least one window of the step could be read.
    """

    actions: "NDArray[np.float32]"
    confidence: "NDArray[np.float32]"
    known: "NDArray[np.bool_]"


class ActionDecoder:
    """A fitted map from latents to actions.

    Args:
        manifest: What it is.
        weights: Its arrays by name.
    """

    def __init__(self, manifest: DecoderManifest, weights: "dict[str, NDArray[np.float32]]") -> None:
        self.manifest, self._weights = manifest, weights

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a decoder.

        Raises:
            UserError: There is none, or its files are of another schema or do not fit together.
        """
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the folder, which appears whole or not at all; the same fit gives the same bytes.

        Raises:
            UserError: The folder is there already.
        """
        raise NotImplementedError

    def check(self, latents: LatentTable, info: DatasetInfo) -> None:
        """Check that it can decode the latents of a dataset, which need not be the one that it was fitted on.

        Raises:
            UserError: Another quantizer, rate, camera, width of the action or of the state; both sides are named.
        """
        raise NotImplementedError

    def episode(self, latents: LatentTable, info: DatasetInfo, episode: int) -> EpisodeActions:
        """Decode an episode; of the dataset's columns only `observation.state` is read, and only for differences to it.

        With a horizon above 1: the first action of each chunk.

        Raises:
            UserError: As `check`, or there is no such episode.
        """
        raise NotImplementedError


def fit_actions(
    latents: LatentTable,
    info: DatasetInfo,
    episodes: list[int],
    *,
    estimator: Estimator = "ridge",
    inputs: Inputs = "vectors",
    action_form: ActionForm | Literal["auto"] = "auto",
    offsets: list[int] | None = None,
    horizon: int = 1,
    floor: float = FLOOR,
    seed: int = 0,
    device: str = "cpu",
) -> ActionDecoder:
    """Fit the map on the labelled episodes of a dataset.

    Args:
        latents: Table of the dataset's latents, with vectors if ``inputs`` are vectors.
        info: The dataset. Latents of all its episodes may be read, actions of ``episodes`` alone.
        episodes: The labelled episodes.
        estimator: A ridge regression, or five small perceptrons.
        inputs: Continuous latents, or codes.
        action_form: Whether actions are predicted or their difference to the state; auto: as the labelled data are.
        offsets: Frames around a step at which windows begin; none: an offset and half an offset before, and at it. With
            a ``horizon`` above 1 the window at the step alone.
        horizon: Actions to predict from a step on.
        floor: Held-out R2 below which a dimension is not trusted.
        seed: Of the perceptrons.
        device: Where the perceptrons are fitted.

    Raises:
        UserError: No labelled episode, one that is not there or has no usable action, latents that do not belong to the
            dataset, or actions of a form that cannot be told.
    """
    raise NotImplementedError
