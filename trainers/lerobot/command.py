"""From a run configuration to the arguments of LeRobot's own training command."""

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hlrp.compat import lerobot_version, loop_has_accelerator_arguments
from hlrp.config import DataSection, LeRobotRun
from hlrp.data.dataset_info import TOLERANCE_S, DatasetInfo
from hlrp.data.shuffling import SHUFFLING, Shuffling
from hlrp.devices import alone_on_gpu, without_number
from hlrp.errors import UserError
from hlrp.processes import child_environment, free_port
from hlrp.ranks import Launch
from hlrp.runs import Checkpoint
from trainers.lerobot.events import (
    ALLOW_DOWNLOAD,
    ASKED_DEVICE,
    ASKED_FILTER,
    ASKED_POLICY,
    FOLLOWS,
    MAX_NONFINITE_STEPS,
    SHUFFLING_ASKED,
    SOURCES,
    TF32_OFF,
)
from trainers.lifecycle import default_log_freq, default_save_freq
from trainers.policy_checks import policy_fields
from trainers.policy_labels import foundation_of
from trainers.rollout_plan import plan_rollouts

WORKER = "trainers.lerobot.worker"
_MIXED = {"32": "no", "bf16": "bf16", "fp16": "fp16"}
# Linux takes 128 KiB of a single argument and, at the usual stack limit, 2 MiB of all of them.
_LONG = 64 * 1024
# What LeRobot looks for among the arguments itself, before its parser reads them as YAML or JSON.
_READ_AS_IT_IS = ("policy.path", "policy.type", "env.type", "config_path")
# Settings by which the process that trains opens datasets itself: mixtures, and what a filter measures.
_READING = {"cameras", "tolerance_s", "video_backend"}


@dataclass(frozen=True)
class Command:
    """A process to start, or several alike that train together.

    Args:
        launcher: Interpreter and module.
        arguments: What stock `lerobot-train` would be given.
        environment: Variables set on top of the current ones.
        processes: How many.
    """

    launcher: list[str]
    arguments: list[str]
    environment: dict[str, str]
    processes: int = 1

    @property
    def typed(self) -> list[str]:
        """The whole argument list, of several processes with torchrun, whose places `environments` gives them."""
        several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        interpreter, *module = self.launcher
        return [interpreter, *(several if self.processes > 1 else []), *module, *self.arguments]

    def environments(self) -> list[dict[str, str]]:
        """The variables of each process.

        torchrun itself is not used: its agent kills, half a minute after a signal, whoever is still in a step.
        """
        if self.processes == 1:
            return [self.environment]
        # As torchrun has it: several processes with as many threads as there are cores would be in each other's way.
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            FOLLOWS: "1",
            "OMP_NUM_THREADS": threads,
        }
        places = [Launch("hlrp", rank, self.processes, rank, self.processes) for rank in range(self.processes)]
        return [self.environment | shared | place.environment(shared) for place in places]

    @property
    def _is_long(self) -> bool:
        return sum(map(len, self.arguments)) > _LONG

    @contextmanager
    def started(self) -> Iterator[list[str]]:
        """The argument list to start the process with; very long arguments lie in a file until the context ends."""
        if not self._is_long:
            yield [*self.launcher, *self.arguments]
            return
        with tempfile.NamedTemporaryFile("w", encoding="utf8", prefix="hlrp-arguments-", suffix=".txt") as file:
            file.writelines(f"{argument}\n" for argument in self.arguments)
            file.flush()
            yield [*self.launcher, f"@{file.name}"]

    def shown(self) -> str:
        """The command as a person would type it; very long arguments come in as a text, one a line."""
        prefix = [f"{k}={shlex.quote(v)}" for k, v in sorted(self.environment.items())]
        if not self._is_long:
            return " ".join([*prefix, shlex.join(self.typed)])
        start = " ".join([*prefix, shlex.join([*self.typed[: -len(self.arguments)], "@/dev/stdin"])])
        return "\n".join([f"{start} <<'END'", *self.arguments, "END"])


def expand_arguments(arguments: list[str]) -> list[str]:
    """Replace a single argument ``@FILE`` by the lines of the file, as `Command.started` wrote them."""
    if len(arguments) == 1 and arguments[0].startswith("@"):
        return Path(arguments[0][1:]).read_text(encoding="utf8").removesuffix("\n").split("\n")
    return arguments


def encode(key: str, value: Any) -> str:
    """A value as LeRobot's argument parser reads it: YAML for a new run, JSON on top of a checkpoint.

    Raises:
        UserError: The parser cannot be given this text.
    """
    if not isinstance(value, str | Path):
        return json.dumps(value)
    text = str(value)
    if key in _READ_AS_IT_IS:
        return text
    if text.startswith("include"):
        raise UserError(
            f"LeRobot's argument parser takes {text!r} for a file to include",
            where=key,
            fix="use a name that does not begin with 'include', or --trainer lightning",
        )
    return text if _stays_text(text) else json.dumps(text, ensure_ascii=False)


def _stays_text(text: str) -> bool:
    """Whether YAML and JSON both leave a text as it is: they would make something else of null, true, 1e3 or [a]."""
    if not text or not text.isprintable():
        return False
    try:
        if yaml.safe_load(text) != text:
            return False
    except yaml.YAMLError:
        return False
    try:
        json.loads(text)
    except ValueError:
        return True
    return False


def _listed(arguments: Mapping[str, Any]) -> list[str]:
    return [f"--{key}={encode(key, value)}" for key, value in arguments.items()]


def check_loop_arguments(arguments: Mapping[str, Any], device: str | None) -> None:
    """Refuse what LeRobot's loop cannot do, or does with files that are never read here.

    Args:
        arguments: The run's `lerobot_args`.
        device: That of the run; None: the best.

    Raises:
        UserError: Naming the argument, or the variable of the environment.
    """
    known = loop_has_accelerator_arguments()
    there = "--trainer lightning with trainer.accumulate_grad_batches or trainer.strategy=fsdp"
    for name, value in arguments.items():
        if name.startswith(("accelerator.", "parallelism.")) and not known:
            raise UserError(
                f"LeRobot {lerobot_version()} has no argument {name}: its loop neither accumulates gradients nor takes "
                "a sharding",
                where="trainer.lerobot_args",
                fix=f"leave it out, or use {there}",
            )
        if name in ("parallelism.dp_shard", "checkpoint_format") and value not in (1, "safetensors"):
            raise UserError(
                f"with {name}={value} LeRobot keeps the state of the training in pickled files, which are never read "
                "here",
                where="trainer.lerobot_args",
                fix="leave it out, or use --trainer lightning with trainer.strategy=fsdp",
            )
        if name == "dataset.streaming" and str(value).lower() != "false":
            raise UserError(
                "LeRobot's loop draws streamed data without a sampler: filter, order and exact resume would be lost",
                where=f"trainer.lerobot_args.{name}",
                fix="leave it out, and fetch the dataset with --allow-download",
            )
        if name == "save_checkpoint" and str(value).lower() != "true":
            raise UserError(
                f"with {name}={encode(name, value)} nothing is saved, and LeRobot's loop cannot be stopped: it does so "
                "right after a checkpoint",
                where="trainer.lerobot_args",
                fix="leave it out; trainer.save_freq says how often checkpoints are saved",
            )
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and (known or device == "cpu"):
        what = "LeRobot takes its sharding from arguments alone" if known else "Accelerate shards on GPUs alone"
        raise UserError(
            f"ACCELERATE_USE_FSDP is set, but {what}",
            where="environment",
            fix="unset it, or use --trainer lightning with trainer.strategy=fsdp",
        )


def build_arguments(
    run: LeRobotRun, dataset: DatasetInfo | None, output_dir: Path, steps: int, known_fields: Mapping[str, Any] | None
) -> list[str]:
    """Arguments of a fresh `lerobot-train` run.

    Args:
        run: The validated configuration.
        dataset: The local dataset, or the mixture as one; None when LeRobot is to download it.
        output_dir: The run directory.
        steps: Training steps, epochs already converted.
        known_fields: Fields of the policy's configuration class, if the catalog is at hand.
    """
    trainer, data, model = run.trainer, run.data, run.model
    arguments: dict[str, Any] = {}
    foundation = foundation_of(model)
    if model.init_from and not foundation:
        arguments["policy.path"] = str(model.init_from)
    else:
        arguments["policy.type"] = model.policy_type
    if trainer.device:
        arguments["policy.device"] = without_number(trainer.device)
    arguments["policy.push_to_hub"] = False  # the run is published when it is finished, with a card of its own
    started = {"init_from": foundation} if foundation else {}
    for key, value in (policy_fields(run, dataset, known_fields) | started).items():
        arguments[f"policy.{key}"] = value
    arguments["dataset.repo_id"] = data.repo_id or (dataset.repo_id if dataset else "")
    if dataset and not data.sources:
        arguments["dataset.root"] = str(dataset.root.absolute())
    if data.episodes is not None:
        arguments["dataset.episodes"] = data.episodes
    # Ours, whatever else is installed: LeRobot would take torchcodec where it loads.
    arguments["dataset.video_backend"] = data.video_backend or "pyav"
    if data.tolerance_s != TOLERANCE_S:
        arguments["tolerance_s"] = data.tolerance_s
    arguments |= {f"dataset.image_transforms.{k}": v for k, v in data.image_transforms.lerobot_fields.items()}
    if trainer.eval_split:
        arguments["dataset.eval_split"] = trainer.eval_split
    arguments |= {
        "output_dir": str(output_dir),
        "job_name": run.job_name or model.policy_type,
        "steps": steps,
        "batch_size": trainer.batch_size,
        "num_workers": data.num_workers,
        "seed": trainer.seed,
        "log_freq": trainer.log_freq or default_log_freq(steps),
        "save_freq": trainer.save_freq or default_save_freq(steps),
        "env_eval_freq": trainer.eval_freq,
        "eval_steps": trainer.eval_steps,
    }
    if (rollouts := plan_rollouts(run, dataset)) is not None:
        arguments["env.type"] = rollouts.env_type
        if rollouts.tasks:
            arguments["env.task"] = ",".join(rollouts.tasks)
        arguments |= {f"env.{k}": v for k, v in rollouts.env_fields.items()}
    if data.rename_map:
        arguments["rename_map"] = data.rename_map
    if trainer.precision and loop_has_accelerator_arguments():
        arguments["accelerator.mixed_precision"] = _MIXED[trainer.precision]
    arguments |= trainer.lerobot_args
    return _listed(arguments)


def resume_arguments(checkpoint: Checkpoint, output_dir: Path, steps: int | None, run: LeRobotRun) -> list[str]:
    """Arguments that continue from ``checkpoint``; everything not named comes from the checkpoint's own settings."""
    arguments: dict[str, Any] = {
        "config_path": str(checkpoint.pretrained / "train_config.json"),
        "resume": True,
        "output_dir": str(output_dir),
        # The checkpoint's is that of as many processes as wrote it.
        "batch_size": run.trainer.batch_size,
    }
    if loop_has_accelerator_arguments():
        arguments["parallelism.dp_replicate"] = 1  # which stands for all processes that there are
    if run.trainer.device and run.trainer.device.startswith("cuda:"):
        arguments["policy.device"] = "cuda"  # the checkpoint may have the number
    if steps is not None:
        arguments["steps"] = steps
    if run.data.root is not None:
        arguments["dataset.root"] = str(run.data.root)  # the checkpoint says where it was
    arguments |= run.trainer.lerobot_args
    return _listed(arguments)


def _described(data: DataSection) -> str:
    """A mixture for the process that trains, as JSON; episodes as ranges, which an environment has room for."""
    said = data.model_dump(mode="json", include={"sources", *_READING}, exclude_defaults=True)
    for source in said["sources"]:
        if isinstance(source.get("labelled_episodes"), list):
            source["labelled_episodes"] = _ranges(source["labelled_episodes"])
    return json.dumps(said)


def _ranges(episodes: list[int]) -> str:
    parts: list[list[int]] = []
    for episode in episodes:
        if parts and episode == parts[-1][1] + 1:
            parts[-1][1] = episode
        else:
            parts.append([episode, episode])
    return ",".join(f"{first}-{last}" for first, last in parts)


def build_command(run: LeRobotRun, arguments: list[str], shuffling: Shuffling = SHUFFLING) -> Command:
    """The processes for ``arguments`` with the run's devices, precision and network settings, and rules of order."""
    # Fields on top of a checkpoint are judged together with its own values, which LeRobot reads.
    asked: dict[str, Any] = {"name": run.model.policy_type, "fields": run.model.policy_fields}
    asked |= {"fresh": not run.model.init_from, "cameras": run.data.cameras}
    asked["adapters"] = any("peft" in key for key in (*run.trainer.lerobot_args, *run.model.policy_fields))
    environment = {"PYTHONUNBUFFERED": "1", ASKED_POLICY: json.dumps(asked), **child_environment()}
    # Its output is read as UTF-8, whatever this terminal can show.
    environment["PYTHONIOENCODING"] = "utf8:backslashreplace"
    if run.data.sources:
        environment[SOURCES] = _described(run.data)
    environment[MAX_NONFINITE_STEPS] = str(run.trainer.max_nonfinite_steps)
    if run.allow_download:
        environment[ALLOW_DOWNLOAD] = "1"
    else:
        environment |= {"HF_HUB_OFFLINE": "1"}
    if run.data.filter.given:
        environment[ASKED_FILTER] = run.data.model_dump_json(include={"filter", *_READING})
    if shuffling != SHUFFLING:
        environment[SHUFFLING_ASKED] = shuffling
    if run.trainer.device:
        # Accelerate takes the first GPU that it sees, whatever is asked for.
        environment |= alone_on_gpu(run.trainer.device, run.trainer.processes)
        environment[ASKED_DEVICE] = without_number(run.trainer.device)
    if not run.trainer.tf32:
        environment[TF32_OFF] = "1"
    if run.trainer.precision:
        # Policies without a dtype of their own take Accelerate's setting.
        environment["ACCELERATE_MIXED_PRECISION"] = _MIXED[run.trainer.precision]
    if run.trainer.processes > 1 and run.trainer.device == "cpu":
        environment["ACCELERATE_USE_CPU"] = "true"
    launcher, launch = [sys.executable, "-m", WORKER], Launch.of(os.environ)
    if launch is not None:
        # This process is one of several already, and its child takes its place among them.
        return Command(launcher, arguments, environment | launch.environment(os.environ))
    return Command(launcher, arguments, environment, run.trainer.devices)
