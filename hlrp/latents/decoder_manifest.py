"""What an action decoder says of itself: `manifest.json` beside its weights."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hlrp.data.columns import read_column
from hlrp.data.dataset_info import DatasetInfo
from hlrp.data.episodes import read_episodes
from hlrp.errors import UserError
from hlrp.latents.action_scores import ActionDimension
from hlrp.latents.action_targets import ActionForm
from hlrp.latents.spec import CodeSpec
from hlrp.latents.step_features import Inputs
from hlrp.runs.kinds import refuse_other
from hlrp.runs.model_folder import parse_manifest

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
SCHEMA_VERSION = 1
KIND = "action_decoder"

Estimator = Literal["ridge", "ensemble"]


def check_output(folder: Path) -> None:
    """Refuse a folder that is there already.

    Raises:
        UserError: It is.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already", where="--output", fix="choose a new folder, or delete it")


def hash_of_actions(info: DatasetInfo, episodes: Sequence[int]) -> str:
    """SHA-256 of the recorded actions of some episodes, and of where one ends and the next begins.

    Raises:
        UserError: The dataset has no actions, or not all rows of these episodes.
    """
    table = read_episodes(info)
    actions = read_column(info, "action", episodes)[table.frame_indices([*episodes])]
    said = json.dumps([[*episodes], table.lengths[[*episodes]].tolist(), actions.shape[1]])
    return hashlib.sha256(said.encode() + actions.astype("<f4").tobytes()).hexdigest()


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
    actions_sha256: str | None = None
    """Of the recorded actions of these episodes, see `hash_of_actions`; none: fitted by an older hlrp."""
    estimator: Estimator
    inputs: Inputs
    offsets: list[int]
    """Frames, relative to a step, at which the windows begin that are read for it."""
    horizon: int = Field(ge=1)
    """Actions H that are predicted from a step on."""
    action_form: ActionForm
    """Whether any dimension is predicted as its difference to the state."""
    state_width: int | None
    """Width of `observation.state` where differences to it are predicted."""
    dimensions: list[ActionDimension]
    held_out: Literal["episodes", "blocks", "both"]
    """What was left out for the scores: whole episodes, or short blocks of those alone of their task."""
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
        """Dimensions that are not to be trusted."""
        return [d for d in self.dimensions if d.r2 is not None and d.r2 < self.floor]

    def has_actions_of(self, info: DatasetInfo) -> bool:
        """Whether the labelled episodes of a dataset have the actions that this was fitted on; all else may differ."""
        if self.actions_sha256 is None or not self.episodes or "action" not in info.features:
            return False
        there = {*read_episodes(info).present}
        return there.issuperset(self.episodes) and hash_of_actions(info, self.episodes) == self.actions_sha256

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a decoder's folder.

        Raises:
            UserError: There is none, it cannot be read, or it is of another kind or schema.
        """
        refuse_other(folder, "an action decoder", str(folder))
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(
                f"{folder} is no action decoder: it has no {MANIFEST}",
                where="--decoder",
                fix="give the folder that hlrp fit-actions wrote",
            )
        fix = "fit it again with hlrp fit-actions"
        return parse_manifest(path, cls, KIND, SCHEMA_VERSION, name="the action decoder", fix=fix)
