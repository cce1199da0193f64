"""From the `trainer` section to the arguments of Lightning's Trainer."""

import functools
import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hlrp.compiled import require_compiler
from hlrp.config import ClassPath, FromConfig, LightningTrainerSection, resolve_class_path
from hlrp.config.trainer_sections import OWNED_TRAINER_ARGS
from hlrp.devices import choose_device
from hlrp.errors import UserError, suggest
from hlrp.ranks import Launch
from trainers.lifecycle import default_log_freq
from trainers.lightning.checkpoints import BestCheckpoint
from trainers.lightning.monitors import watch_rollouts
from trainers.lightning.state import SafeCheckpointIO

_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_OWN_FORMATS = ("fsdp_", "deepspeed", "xla")
_COPIES = ("spawn", "fork", "notebook")


def log_freq_of(section: LightningTrainerSection) -> int:
    """Steps between rows of metrics."""
    # With a length in epochs the steps are not known yet.
    return section.log_freq or (default_log_freq(section.steps) if section.max_epochs is None else 50)


def make_trainer(section: LightningTrainerSection, path: Path, *, start: int, shard_samples: bool) -> Trainer:
    """Lightning's Trainer for a run; see `trainer_arguments`.

    Raises:
        UserError: Lightning refuses the settings, or something asked for is not here.
    """
    if section.compile:
        require_compiler()
    arguments = trainer_arguments(
        section, path, start=start, log_freq=log_freq_of(section), shard_samples=shard_samples
    )
    try:
        return Trainer(**arguments)
    except (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError) as error:
        raise UserError(
            f"Lightning refuses these settings: {error}", where="trainer", fix="change the named setting"
        ) from error


def trainer_arguments(
    section: LightningTrainerSection, path: Path, *, start: int, log_freq: int, shard_samples: bool
) -> dict[str, Any]:
    """Arguments of Lightning's Trainer for a run.

    Args:
        section: The `trainer` section.
        path: The run directory; loggers write below it.
        start: Step that the run continues at; 0 for a fresh one.
        log_freq: Steps between rows of metrics.
        shard_samples: Whether Lightning has to share the samples out among several processes.

    Raises:
        UserError: Something asked for does not exist or is not installed here.
    """
    accelerator, devices = _devices(section)
    if section.precision == "fp16" and accelerator == "cpu":
        raise UserError("fp16 needs a GPU", where="--precision / trainer.precision", fix="use bf16 or 32")
    epochs, callbacks = section.max_epochs, [build_callback(callback, path) for callback in section.callbacks]
    if section.eval_freq:
        watch_rollouts(callbacks)
    arguments: dict[str, Any] = {
        "accelerator": accelerator,
        "devices": devices,
        "num_nodes": section.num_nodes,
        "strategy": _strategy(section),
        "precision": _PRECISIONS[section.precision or "32"],
        "max_steps": section.steps if epochs is None else -1,
        "max_epochs": -1 if epochs is None else epochs,
        "accumulate_grad_batches": section.accumulate_grad_batches,
        "gradient_clip_val": section.gradient_clip_val,
        "callbacks": callbacks,
        "logger": [_logger(name, path, start) for name in section.logger],
        "profiler": _profiler(section.profiler, path),
        "limit_train_batches": section.limit_train_batches,
        "log_every_n_steps": log_freq,
        "plugins": [SafeCheckpointIO(), *_environment()],
        "default_root_dir": path,
        "use_distributed_sampler": shard_samples,
        # Lightning wants to be told of callbacks that save; the run's own checkpoints are none of its business.
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        # A run that starts with a validation starts late, and its figures are those of the untrained model.
        "num_sanity_val_steps": 0,
    }
    return arguments | _validation(section) | _other(section)


def _devices(section: LightningTrainerSection) -> tuple[str, Any]:
    where = "--device, --devices / trainer.device, trainer.devices"
    device = choose_device(section.device, count=section.devices, where=where, tf32=section.tf32)
    kind, _, index = device.partition(":")
    if index and section.devices > 1:
        raise UserError(
            f"device {device!r} is one GPU, but {section.devices} devices were asked for",
            where="--device, --devices",
            fix="use --device cuda",
        )
    return kind, [int(index)] if index else section.devices


def _strategy(section: LightningTrainerSection) -> str | Strategy:
    from lightning.pytorch.strategies import StrategyRegistry

    name = section.strategy

    known = ("auto", *StrategyRegistry.available_strategies())
    if name not in known:
        raise UserError(f"unknown strategy {name!r}", where="trainer.strategy", fix=suggest(name, known))
    if any(part in name for part in _COPIES):
        raise UserError(
            f"strategy {name!r} trains in copies of this process, which cannot keep the run's folder",
            where="trainer.strategy",
            fix="use ddp",
        )
    if name.startswith(_OWN_FORMATS):
        raise UserError(
            f"strategy {name!r} writes checkpoints in a pickled format of its own, which is never read here",
            where="trainer.strategy",
            fix="use fsdp, which spreads weights, gradients and optimizer alike; trainer.activation_checkpointing and "
            "accumulate_grad_batches save more memory",
        )
    if name != "fsdp":
        return name
    if section.compile:
        raise UserError(
            "a module whose weights are spread is not compiled",
            where="trainer.compile, trainer.strategy",
            fix="leave trainer.compile out, or use ddp",
        )
    from trainers.lightning.sharding import ShardedStrategy

    return ShardedStrategy()


def _validation(section: LightningTrainerSection) -> dict[str, Any]:
    """Validate every `eval_steps` steps, or as `val_check_interval` says; counted over epochs where it is a number."""
    interval: int | float | None = section.val_check_interval
    if section.eval_steps:
        if interval is not None:
            raise UserError(
                "'eval_steps' and 'val_check_interval' both say when to validate",
                where="trainer.eval_steps, trainer.val_check_interval",
                fix="keep eval_steps",
            )
        interval = section.eval_steps  # Lightning counts batches: the run's own loop counts steps
    if interval is None:
        return {}
    return {"val_check_interval": interval} | ({"check_val_every_n_epoch": None} if isinstance(interval, int) else {})


def _other(section: LightningTrainerSection) -> dict[str, Any]:
    known = set(inspect.signature(Trainer).parameters) - set(OWNED_TRAINER_ARGS)
    for name in section.trainer_args:
        if name not in known:
            raise UserError(
                f"Lightning's Trainer has no argument {name!r}",
                where=f"trainer.trainer_args.{name}",
                fix=suggest(name, known),
            )
    if section.trainer_args.get("gradient_clip_algorithm") is not None and section.gradient_clip_val is None:
        # Lightning would leave it aside, and a policy would go on clipping by its preset's norm.
        raise UserError(
            "'gradient_clip_algorithm' says how gradients are clipped, and nothing says at which value",
            where="trainer.trainer_args.gradient_clip_algorithm",
            fix="give trainer.gradient_clip_val as well, or leave it out",
        )
    return dict(section.trainer_args)


def callback_class(spec: ClassPath) -> Any:
    """The class that a callback is given by.

    Raises:
        UserError: There is no such callback, or it may not be imported.
    """
    from lightning.pytorch import callbacks

    name = spec.class_path
    if "." in name:
        found: Any = resolve_class_path(name)
    else:
        known = {n: c for n in callbacks.__all__ if inspect.isclass(c := getattr(callbacks, n))}
        if name not in known:
            raise UserError(f"unknown callback {name!r}", where="trainer.callbacks", fix=suggest(name, known, limit=30))
        found = known[name]
    if not issubclass(found, Callback):
        raise UserError(f"{name!r} is not a callback of Lightning", where="trainer.callbacks", fix="name a Callback")
    refuse_averages([found], "trainer.callbacks")
    return found


def refuse_averages(kinds: Iterable[type[Callback]], where: str) -> None:
    """Refuse Lightning's averages of weights.

    They are copied into the module only when training has ended, after the last checkpoint was written: what is
    validated would not be what is saved. And they copy a policy before it is made.

    Args:
        kinds: Classes of callbacks.
        where: Who asks for them, for the error.

    Raises:
        UserError: One is such an average.
    """
    for kind in kinds:
        if issubclass(kind, WeightAveraging | StochasticWeightAveraging):
            raise UserError(
                f"the average of {kind.__name__} would be validated, and not saved",
                where=where,
                fix="leave it out; for a policy trainer.ema_decay averages the weights, and saves what it validates",
            )


def build_callback(spec: ClassPath, run: Path) -> Callback:
    """A callback by its class name in `lightning.pytorch.callbacks`, or by a dotted class path.

    Args:
        spec: The class and its arguments.
        run: The run directory, where `ModelCheckpoint` keeps the best.

    Raises:
        UserError: There is no such callback, or it does not take these arguments.
    """
    from lightning.pytorch import callbacks

    name, found = spec.class_path, callback_class(spec)
    if found is callbacks.ModelCheckpoint:
        found = functools.partial(BestCheckpoint, run)
    elif issubclass(found, FromConfig):
        built: Callback = found.from_config(spec.init_args)
        return built
    try:
        inspect.signature(found).bind(**spec.init_args)
        return found(**spec.init_args)
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(
            f"callback {name!r} cannot be built: {error}",
            where="trainer.callbacks",
            fix=f"its arguments are {inspect.signature(found)}",
        ) from error


def _logger(name: str, path: Path, start: int) -> Logger:
    from lightning.pytorch import loggers

    folder = path / "logs"
    try:
        if name == "csv":
            # Lightning's writer begins its file anew; a resumed run must not take the rows before it along.
            return loggers.CSVLogger(folder, name="csv", version=f"from_{start:06d}")
        if name == "tensorboard":
            return loggers.TensorBoardLogger(folder, name="tensorboard", version="")
        return loggers.WandbLogger(project=os.environ.get("WANDB_PROJECT", "hlrp"), id=_wandb_id(path), save_dir=folder)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the logger {name!r} is not installed", where="trainer.logger", fix=f"pip install {name}"
        ) from error


def _wandb_id(path: Path) -> str:
    """An id that a resumed run finds again: its folder's name and that of the folder above."""
    return f"{path.parent.name}-{path.name}"


def _profiler(name: str | None, path: Path) -> Any:
    from lightning.pytorch import profilers

    if name is None:
        return None
    kinds: dict[str, Any] = {
        "simple": profilers.SimpleProfiler,
        "advanced": profilers.AdvancedProfiler,
        "pytorch": profilers.PyTorchProfiler,
    }
    return kinds[name](dirpath=path, filename="profile")


def _environment() -> list[Any]:
    """Who starts the processes: torchrun or srun, in torchrun's words, else Lightning.

    Lightning's own class for Slurm would requeue by itself, with a checkpoint of its own, and take a batch script's one
    process for one of several.
    """
    launch = Launch.of(os.environ)
    if launch is not None:
        os.environ.update(launch.environment(os.environ))
        return [TorchElasticEnvironment()]
    if "RANK" in os.environ:  # of a launcher that started this process alone; Lightning starts the others
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
    return [LightningEnvironment()]
