"""The one schema of this project: a run of either trainer, and an evaluation."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Discriminator, Field, model_validator

from hlrp.config.base import Device, FilePath, Section, Settings
from hlrp.config.models import LightningModel, PolicyModel
from hlrp.config.sections import DataSection, EnvSection, LatentsSection
from hlrp.config.slurm_section import SlurmSection
from hlrp.config.trainer_sections import LeRobotTrainerSection, LightningTrainerSection, TrainerSection
from hlrp.config.tree import normalise
from hlrp.errors import UserError
from hlrp.hub_names import HUB_NAME


class _Run(Section):
    """What runs of both trainers share."""

    trainer_type: str
    trainer: TrainerSection
    model: Any
    data: DataSection = Field(default_factory=DataSection)
    latents: LatentsSection = Field(default_factory=LatentsSection)
    env: EnvSection | None = None
    """Simulator for rollouts during training."""
    slurm: SlurmSection = Field(default_factory=SlurmSection)
    """What `--launcher slurm` asks of the cluster."""
    output_dir: FilePath | None = None
    """Folder of the run; none: outputs/<job>/<time>."""
    job_name: str | None = Field(default=None, min_length=1)
    allow_download: bool = False
    """Whether weights and datasets that are not on this machine may be fetched."""
    push_to_hub: str | None = Field(default=None, pattern=f"^{HUB_NAME}$")
    """Name on the Hub, USER/NAME, that the finished run is published under; none: it is not."""

    @model_validator(mode="before")
    @classmethod
    def _accept_spellings(cls, value: Any) -> Any:
        return _with_hub_name(_with_image_transforms(normalise(value))) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _check_across_sections(self) -> Self:
        trainer, model = self.trainer, self.model
        if trainer.eval_freq > 0 and self.env is None:
            raise ValueError("'trainer.eval_freq' needs 'env', the simulator to roll out in")
        if trainer.learning_rate is not None and isinstance(model, PolicyModel):
            other = model.policy_fields.get("optimizer_lr")
            if other is not None and other != trainer.learning_rate:
                raise ValueError(
                    f"'trainer.learning_rate' ({trainer.learning_rate}) and the policy's 'optimizer_lr' ({other}) "
                    "are the same thing but differ; keep one of them"
                )
        return self


def _with_hub_name(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with a name in `push_to_hub`, where a file of 0.3 says yes or no and has the name among the policy's."""
    asked, model = tree.get("push_to_hub"), tree.get("model")
    if not isinstance(asked, bool):
        return tree
    name = model.get("repo_id") if isinstance(model, dict) else None
    if asked and name is None:
        raise ValueError("'push_to_hub' is the name that the run is published under, such as me/my-policy")
    return tree | {"push_to_hub": name if asked else None}


_TRANSFORMS = "dataset.image_transforms."


def _with_image_transforms(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with image transforms in their own key, where a file of 0.3 has them among LeRobot's arguments."""
    trainer, data = tree.get("trainer"), tree.get("data", {})
    if not isinstance(trainer, dict) or not isinstance(data, dict) or "image_transforms" in data:
        return tree
    extra = trainer.get("lerobot_args")
    if not isinstance(extra, dict):
        return tree
    section: dict[str, Any] = {}
    for key in [key for key in extra if key.startswith(_TRANSFORMS)]:
        *outer, last = key.removeprefix(_TRANSFORMS).split(".")
        place = section
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = extra[key]
    kept = {key: value for key, value in extra.items() if not key.startswith(_TRANSFORMS)}
    moved = {"trainer": trainer | {"lerobot_args": kept}, "data": data | {"image_transforms": section}}
    return tree | moved if section else tree


class LeRobotRun(_Run):
    """A run of LeRobot's training loop."""

    trainer_type: Literal["lerobot"] = "lerobot"
    trainer: LeRobotTrainerSection = Field(default_factory=LeRobotTrainerSection)
    model: PolicyModel


class LightningRun(_Run):
    """A run of Lightning's training loop."""

    trainer_type: Literal["lightning"]
    trainer: LightningTrainerSection = Field(default_factory=LightningTrainerSection)
    model: LightningModel


class OtherTrainerSection(TrainerSection):
    """What every trainer has, and what else a trainer of another package takes: what it names in its `obeys`."""

    model_config = ConfigDict(extra="allow")


class OtherRun(_Run):
    """A run of a trainer that another package adds (`hlrp.config.trainer_names`)."""

    trainer: OtherTrainerSection = Field(default_factory=OtherTrainerSection)
    model: LightningModel


RUN_CLASSES: dict[str, type[LeRobotRun] | type[LightningRun]] = {
    get_args(kind.model_fields["trainer_type"].annotation)[0]: kind for kind in (LeRobotRun, LightningRun)
}
"""The class of a run by its `trainer_type`."""

RunConfig = Annotated[LeRobotRun | LightningRun, Discriminator("trainer_type")]
"""A run of either trainer."""


class EvalConfig(Settings):
    """An evaluation in a simulator: the content of the key `eval`."""

    checkpoint: FilePath | None = None
    """Run, checkpoint or `pretrained_model` folder."""
    env: EnvSection | None = None
    """Simulator; none: the one of the dataset that the run was trained on."""
    tasks: list[str] = Field(default_factory=list)
    """Tasks of the simulator; empty: `env.task`, or those of the dataset."""
    episodes: int = Field(default=20, gt=0)
    """Episodes per task."""
    seed: int = Field(default=1000, ge=0, le=2**31 - 1)
    """Seed of the first episode's first state; the following episodes count up."""
    batch_size: int | None = Field(default=None, gt=0)
    """Environments stepped together; none: chosen from the machine's cores."""
    device: Device | None = None
    videos: int = Field(default=4, ge=0)
    """Videos to keep per task."""
    output: FilePath | None = None
    """Folder of the results; none: `eval/<time>` in the run."""


class EvalFile(Section):
    """A configuration file of an evaluation, told from a run's by its key `eval`."""

    eval: EvalConfig = Field(default_factory=EvalConfig)


def require_dataset(config: LeRobotRun | LightningRun) -> None:
    """Check that the run says what to train on.

    Raises:
        UserError: Neither ``data.repo_id`` nor ``data.root`` nor ``data.sources`` is set.
    """
    data = config.data
    if data.repo_id is None and data.root is None and not data.sources:
        raise UserError(
            "there is nothing to train on: no dataset is given",
            where="data.repo_id, data.root, data.sources",
            fix="give --dataset REPO_ID or --dataset-root DIR",
        )
