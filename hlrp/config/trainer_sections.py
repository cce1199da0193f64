"""The `trainer` section: what both trainers share, and what LeRobot's and Lightning's have of their own."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from hlrp.config.base import SEED_MOST, Device, Precision, Settings
from hlrp.config.tree import normalise


class TrainerSection(Settings):
    """How a run is executed: what both trainers share."""

    steps: int = Field(default=100_000, gt=0)
    """Optimizer steps."""
    max_epochs: int | None = Field(default=None, gt=0)
    """Length of the run in passes over the data, in place of `steps`; see `steps_for_epochs`."""
    batch_size: int = Field(default=8, gt=0)
    """Samples per step and process."""
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Learning rate; none: the policy's preset."""
    devices: int = Field(default=1, ge=1, le=4096)
    """Processes on each node, one per GPU; under torchrun and srun as many as these started."""
    num_nodes: int = Field(default=1, ge=1, le=65536)
    """Nodes, on each of which torchrun or srun starts the processes; read from these if not given."""
    precision: Precision | None = None
    """Numbers during training: 32, bf16 or fp16 (mixed); none: the policy's own setting."""
    tf32: bool = True
    """Whether a GPU may round the factors of float32 products to TF32, 10 bits of mantissa."""
    seed: int = Field(default=1000, ge=0, le=SEED_MOST)
    device: Device | None = None
    """cpu, mps, cuda or cuda:N; none: the best that is there."""
    log_freq: int | None = Field(default=None, gt=0)
    """Steps between log lines; none: chosen from `steps`."""
    save_freq: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; none: chosen from `steps`."""
    eval_freq: int = Field(default=0, ge=0)
    """Steps between rollouts in `env`; 0: none."""
    eval_split: float = Field(default=0.0, ge=0, lt=1)
    """Share of the episodes held out for a loss that is not trained on."""
    eval_steps: int = Field(default=0, ge=0)
    """Steps between computations of the held-out loss; 0: none."""
    max_nonfinite_steps: int = Field(default=10, ge=1)
    """Steps in a row whose loss may be NaN or infinite before the run fails."""

    @model_validator(mode="before")
    @classmethod
    def _accept_spellings(cls, value: Any) -> Any:
        return normalise({"trainer": value})["trainer"] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _check_length_and_split(self) -> Self:
        if self.max_epochs is not None and "steps" in self.model_fields_set:
            raise ValueError("'steps' and 'max_epochs' exclude each other; give one of them")
        if self.eval_steps > 0 and self.eval_split == 0:
            raise ValueError("'eval_steps' needs 'eval_split' > 0, the share of episodes to hold out")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_unused_steps(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # With `max_epochs` set, `steps` is not the length of the run, and a dump holding both could not be read again.
        dumped: dict[str, Any] = handler(self)
        if self.max_epochs is not None:
            dumped.pop("steps", None)
        return dumped

    def on_devices(self, devices: int, num_nodes: int = 1) -> Self:
        """The same steps by another number of processes, on each of some nodes, which share out the samples of each.

        Raises:
            ValueError: They cannot be shared out evenly.
        """
        samples, processes = self.batch_size * self.processes, devices * num_nodes
        if processes < 1 or samples % processes:
            raise ValueError(f"the {samples} samples of a step cannot be shared out among {processes} processes")
        shared = {"devices": devices, "num_nodes": num_nodes, "batch_size": samples // processes}
        return self.model_copy(update=shared)

    @property
    def processes(self) -> int:
        """Processes that train together, on all nodes."""
        return self.devices * self.num_nodes

    def total_steps(self, frames: int) -> int:
        """Return the optimizer steps of the run on a dataset of ``frames`` frames."""
        if self.max_epochs is None:
            return self.steps
        return steps_for_epochs(self.max_epochs, frames, self.batch_size, self.processes)


def steps_for_epochs(epochs: int, frames: int, batch_size: int, devices: int = 1) -> int:
    """Return the optimizer steps of ``epochs`` passes over ``frames`` frames.

    Args:
        epochs: Passes over the data, > 0.
        frames: Frames that are trained on, > 0.
        batch_size: Samples per step and process.
        devices: Processes.
    """
    if min(epochs, frames, batch_size, devices) <= 0:
        raise ValueError("epochs, frames, batch_size and devices must all be positive")
    return epochs * math.ceil(frames / (batch_size * devices))


OWNED_LEROBOT_ARGS: dict[str, str] = {
    "steps": "trainer.steps",
    "batch_size": "trainer.batch_size",
    "seed": "trainer.seed",
    "log_freq": "trainer.log_freq",
    "save_freq": "trainer.save_freq",
    "env_eval_freq": "trainer.eval_freq",
    "eval_steps": "trainer.eval_steps",
    "num_workers": "data.num_workers",
    "output_dir": "output_dir",
    "job_name": "job_name",
    "rename_map": "data.rename_map",
    "dataset.repo_id": "data.repo_id",
    "dataset.root": "data.root",
    "dataset.episodes": "data.episodes",
    "dataset.video_backend": "data.video_backend",
    "tolerance_s": "data.tolerance_s",
    "dataset.eval_split": "trainer.eval_split",
    "policy.type": "model.policy_type",
    "policy.path": "model.init_from",
    "policy.pretrained_path": "model.init_from",
    "policy.device": "trainer.device",
    "policy.use_amp": "trainer.precision",
    "accelerator.mixed_precision": "trainer.precision",
    "policy.push_to_hub": "push_to_hub",
    "policy.optimizer_lr": "trainer.learning_rate",
    "resume": "the flag --resume",
    "config_path": "the flag --config",
}
"""LeRobot training arguments that the schema sets itself, and what they are called here."""


def _owner_of(argument: str) -> str | None:
    name = argument.lstrip("-")
    if name in OWNED_LEROBOT_ARGS:
        return OWNED_LEROBOT_ARGS[name]
    if name.startswith("dataset.image_transforms"):
        return "data.image_transforms"
    section, _, rest = name.partition(".")
    return {"policy": f"model.{rest}", "env": f"env.{rest}"}.get(section) if rest else None


class LeRobotTrainerSection(TrainerSection):
    """LeRobot's own training loop, in a process of its own."""

    lerobot_args: dict[str, Any] = Field(default_factory=dict)
    """Any other LeRobot training argument by its dotted name, such as `wandb.enable: true`."""

    @field_validator("lerobot_args")
    @classmethod
    def _refuse_owned(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            owner = _owner_of(name)
            if owner is not None:
                raise ValueError(f"'{name}' is set by this configuration: use {owner}")
        return value


class ClassPath(Settings):
    """An object given by its class and arguments."""

    class_path: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    """Dotted name of the class; it must lie in this project, LeRobot or Lightning, or be allowed by --allow-import."""
    init_args: dict[str, Any] = Field(default_factory=dict)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _by_name(value: Any) -> Any:
    """A callback that needs no arguments may be given by its name alone."""
    items = _listed(value)
    return (
        [{"class_path": item} if isinstance(item, str) else item for item in items]
        if isinstance(items, list)
        else value
    )


OWNED_TRAINER_ARGS: dict[str, str] = {
    "accelerator": "trainer.device",
    "strategy": "trainer.strategy",
    "devices": "trainer.devices",
    "num_nodes": "trainer.num_nodes",
    "precision": "trainer.precision",
    "logger": "trainer.logger",
    "callbacks": "trainer.callbacks",
    "max_epochs": "trainer.max_epochs",
    "max_steps": "trainer.steps",
    "limit_train_batches": "trainer.limit_train_batches",
    "val_check_interval": "trainer.val_check_interval",
    "log_every_n_steps": "trainer.log_freq",
    "accumulate_grad_batches": "trainer.accumulate_grad_batches",
    "gradient_clip_val": "trainer.gradient_clip_val",
    "profiler": "trainer.profiler",
    "default_root_dir": "output_dir",
    "enable_checkpointing": "trainer.save_freq and trainer.keep_last",
    "enable_progress_bar": "the progress that is always shown",
    "plugins": "the trainer's own checkpoint format",
    "fast_dev_run": "trainer.steps",
}
"""Arguments of Lightning's Trainer that the schema sets itself, and what they are called here."""


class LightningTrainerSection(TrainerSection):
    """Lightning's training loop."""

    accumulate_grad_batches: int = Field(default=1, ge=1)
    gradient_clip_val: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Largest norm of the gradient, 0: any; none: the policy's preset, and for other models any."""
    optimizer: dict[str, Any] | None = None
    """Of a policy, in LeRobot's terms: `{type: adamw, lr: 1e-4, ...}`; none: the policy's preset."""
    scheduler: dict[str, Any] | None = None
    """Of a policy's learning rate, in LeRobot's terms, or `{type: none}`; none: the policy's preset."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a running average of a policy's weights, which is then what is validated and saved."""
    eval_episodes: int = Field(default=10, gt=0)
    """Episodes per task of the rollouts of `eval_freq`."""
    strategy: str = "auto"
    """How processes share the work: auto, ddp, fsdp (FSDP2, spread weights and optimizer), or one of Lightning's."""
    activation_checkpointing: bool = False
    """Whether stacked layers are computed again in the backward pass, which saves their memory and costs time."""
    callbacks: Annotated[
        list[ClassPath], BeforeValidator(_by_name, json_schema_input_type=list[ClassPath | str] | str)
    ] = Field(default_factory=list)
    """Callbacks: names in lightning.pytorch.callbacks, or `{class_path, init_args}`."""
    logger: Annotated[
        list[Literal["csv", "tensorboard", "wandb"]],
        BeforeValidator(_listed, json_schema_input_type=list[str] | str),
    ] = Field(default_factory=lambda: ["csv"])  # type: ignore[arg-type]
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    compile: bool = False
    """Whether torch.compile compiles the model's blocks while it is trained; what is saved does not change."""
    keep_last: int | None = Field(default=None, ge=1)
    """Checkpoints to keep, newest first; none: all."""
    limit_train_batches: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] | None = None
    """Batches per epoch (a whole number) or share of them (a fraction)."""
    val_check_interval: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] | None = None
    """Training batches (a whole number) or share of an epoch (a fraction) between validations."""
    trainer_args: dict[str, Any] = Field(default_factory=dict)
    """Any other argument of Lightning's Trainer, such as `deterministic: true`."""

    @field_validator("trainer_args")
    @classmethod
    def _refuse_owned(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in OWNED_TRAINER_ARGS:
                raise ValueError(f"'{name}' is set by this configuration: use {OWNED_TRAINER_ARGS[name]}")
        return value
