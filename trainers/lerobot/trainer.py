"""LeRobot's own training in a process of its own, with our configuration, run directory and progress around it."""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hlrp.config import LeRobotRun, load_config, refuse_unused, require_dataset
from hlrp.data.dataset_info import DatasetInfo, find_dataset, read_dataset
from hlrp.data.episodes import read_episodes, split_episodes
from hlrp.data.filtering import Selection, select_for_policy
from hlrp.errors import UserError
from hlrp.ranks import Launch
from hlrp.runs import Checkpoint, DatasetRecord, RunDirectory, claim_run_path, new_run_path, resolve_pretrained
from trainers.base import BaseTrainer, RunResult, without_log_lines
from trainers.camera_names import with_camera_names
from trainers.crew import Crew, placed
from trainers.fetching import fetched, fetched_before
from trainers.lerobot.command import (
    Command,
    build_arguments,
    build_command,
    check_loop_arguments,
    resume_arguments,
)
from trainers.lerobot.session import TrainingSession, follow, missed_rollouts
from trainers.lifecycle import RunLifecycle, resumable
from trainers.moved_data import resumed_data
from trainers.policy_checks import check_policy_run, check_with_lerobot
from trainers.policy_labels import check_held_out, foundation_of, mixture_of
from trainers.pushing import check_push
from trainers.rollout_plan import rollout_warnings
from trainers.run_data import (
    check_data,
    check_same_data,
    check_same_filter,
    describe_data,
    error_console,
    reading_told,
    with_absolute_paths,
)

_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvhost-ctrl", "/dev/nvmap")


class LeRobotTrainer(BaseTrainer):
    """Runs LeRobot's training on any policy that LeRobot knows, plugins included.

    Args:
        settings: Fields of the `trainer` section: `steps`, `batch_size`, `learning_rate`, `device`, ...
    """

    trainer_type: ClassVar[str] = "lerobot"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def fit(
        self,
        policy_type: str | None = None,
        dataset_repo: str | None = None,
        *,
        dataset_root: Path | str | None = None,
        output_dir: Path | str | None = None,
        run: LeRobotRun | None = None,
        **policy_fields: Any,
    ) -> RunResult:
        """Train a policy with LeRobot.

        Args:
            policy_type: Registered policy, such as `act`.
            dataset_repo: Hub name of the dataset; it must be on this machine.
            dataset_root: Folder of the dataset, instead of a Hub name or beside it.
            output_dir: Run directory to make; by default `outputs/<policy>/<time>`.
            run: A whole run configuration, in place of all the others.
            policy_fields: Fields of the policy's LeRobot configuration class, or their documented aliases.
        """
        if run is None:
            values = {f"trainer.{k}": v for k, v in self.settings.items()} | {
                f"model.{k}": v for k, v in policy_fields.items()
            }
            values |= {
                "trainer_type": self.trainer_type,
                "model.policy_type": policy_type,
                "data.repo_id": dataset_repo,
                "data.root": dataset_root,
                "output_dir": output_dir,
            }
            flags = {k: (v, k.rpartition(".")[2]) for k, v in values.items() if v is not None}
            loaded = load_config(None, (), flags).config
            if not isinstance(loaded, LeRobotRun):
                raise UserError("this trainer runs LeRobot configurations", where="trainer_type")
            run = loaded
        run = with_absolute_paths(fetched(placed(run, Launch.of(os.environ))))
        check_push(run.push_to_hub)
        run, crew = with_camera_names(run, error_console().print), Crew.current
        if crew is not None and not crew.first:
            return follow(plan(run, Path(crew.agree("folder", Path))).command)
        with claim_run_path(run.output_dir, run.job_name or run.model.policy_type) as lock:
            if crew is not None:
                crew.agree("folder", lambda: str(lock.folder))
            command, datasets, _, path, steps, warnings, selections = plan(run, lock.folder)
            lifecycle = RunLifecycle(warnings)

            def create() -> RunDirectory:
                return lifecycle.create(
                    path,
                    run,
                    policy=run.model.policy_type,
                    dataset=_described(run, datasets, selections),
                    steps=steps,
                    command=command.typed,
                )

            return TrainingSession(command, lock, lifecycle, create, steps=steps).run()

    def resume(self, directory: RunDirectory, run: LeRobotRun, *, steps: int | None = None) -> RunResult:
        """Continue a run from its newest complete checkpoint, in its own folder."""
        run, crew = placed(run, Launch.of(os.environ), resumed=True), Crew.current
        if crew is not None and not crew.first:
            crew.agree("folder", Path)  # once the first process has it for itself
            return follow(plan_resume(directory, run, steps).command)
        with directory.sole_writer() as lock:
            if crew is not None:
                crew.agree("folder", lambda: str(directory.path))
            check_push(run.push_to_hub)
            command, checkpoint, warnings, total, dataset = plan_resume(directory, run, steps)
            lifecycle = RunLifecycle(warnings)

            def reopen() -> RunDirectory:
                fields = {"steps": total, "processes": run.trainer.processes, "command": command.typed}
                return lifecycle.reopen(directory, checkpoint, dataset=dataset, run=run, **fields)

            return TrainingSession(command, lock, lifecycle, reopen, steps=total, start=checkpoint.step).run()

    @staticmethod
    def dry_run(run: LeRobotRun, *, resume: RunDirectory | None = None, steps: int | None = None) -> str:
        """The command that a run would start, after every check that the run makes."""
        run = placed(run, Launch.of(os.environ), resumed=resume is not None)
        if resume is not None:
            return plan_resume(resume, run, steps).command.shown()
        run = with_camera_names(run, error_console().print)
        with without_log_lines():
            planned = plan(fetched_before(run))
            check_with_lerobot(run, planned.whole)
            _check_arguments(planned.command.arguments)
        return planned.command.shown()


class Plan(NamedTuple):
    """What a fresh run will do.

    Args:
        command: The process to start.
        datasets: The local datasets; none if LeRobot is to download one.
        whole: The dataset, or all of a mixture as one; None if LeRobot is to download it.
        path: The run directory.
        steps: Its steps.
        warnings: What may be wrong with the data.
        selections: What the filter leaves of them; empty without one.
    """

    command: Command
    datasets: list[DatasetInfo]
    whole: DatasetInfo | None
    path: Path
    steps: int
    warnings: list[str]
    selections: list[Selection]


def plan(run: LeRobotRun, path: Path | None = None) -> Plan:
    """Check everything that can be checked without LeRobot, and decide the command.

    Args:
        run: The configuration.
        path: The run directory, if one is claimed; None: the one that the run would have.

    Raises:
        UserError: The first mistake found.
    """
    refuse_unused(run)
    require_dataset(run)
    _check_device(run.trainer.device)
    check_loop_arguments(run.trainer.lerobot_args, run.trainer.device)
    datasets, whole, kept = _local_data(run)
    warnings = check_data(run, datasets) + check_held_out(run, datasets)
    known = check_policy_run(run, whole)
    if run.trainer.max_epochs is not None and not datasets:
        raise UserError(
            "epochs cannot be converted to steps before the dataset is here",
            where="trainer.max_epochs",
            fix="give --steps",
        )
    if run.model.init_from and not foundation_of(run.model):
        run = _resolve_start(run)
    selections = _select(run, datasets, kept)
    whole_frames = [int(read_episodes(d).lengths[episodes].sum()) for d, episodes in zip(datasets, kept, strict=True)]
    frames = [s.kept for s in selections] or whole_frames
    steps = run.trainer.total_steps(sum(frames)) if datasets else run.trainer.steps
    path = path or new_run_path(run.output_dir, run.job_name or run.model.policy_type)
    command = build_command(run, build_arguments(run, whole, path, steps, known))
    return Plan(command, datasets, whole, path, steps, warnings + rollout_warnings(run), selections)


def _described(run: LeRobotRun, datasets: list[DatasetInfo], selections: list[Selection]) -> DatasetRecord:
    return describe_data(datasets, selections) if datasets else DatasetRecord(repo_id=run.data.repo_id)


def _select(run: LeRobotRun, datasets: list[DatasetInfo], kept: list[list[int]]) -> list[Selection]:
    """What the run's filter leaves of its datasets, and say so; the training process comes to the same.

    Raises:
        UserError: Nothing, or the dataset is not here yet.
    """
    if not run.data.filter.given:
        return []
    if not datasets:
        raise UserError(
            "what the filter leaves cannot be known before the dataset is here",
            where="data.filter",
            fix="fetch it first: hf download --repo-type dataset NAME --local-dir DIR, then give --dataset-root DIR",
        )
    console, mixture = error_console(), mixture_of(run)
    told = reading_told(console)
    if mixture is not None:
        selections = mixture.selections(run.data.filter, kept, **told)
    else:
        selections = select_for_policy(run.data.filter, datasets[0], kept[0], run.data.cameras, **told)
    for selection in selections:
        console.print(selection.describe())
    return selections


def _local_data(run: LeRobotRun) -> tuple[list[DatasetInfo], DatasetInfo | None, list[list[int]]]:
    """The run's datasets, all as one, and the episodes of each that are trained on; nothing if LeRobot may download it.

    Raises:
        UserError: There is none, or nothing would be left to train on.
    """
    data, eval_split = run.data, run.trainer.eval_split
    mixture = mixture_of(run)
    if mixture is not None:
        if named := [key for key in run.trainer.lerobot_args if key.startswith("dataset.")]:
            raise UserError(
                f"{named[0]} is a setting of LeRobot's own dataset, which does not read mixtures",
                where="trainer.lerobot_args",
                fix="leave it out",
            )
        return [s.info for s in mixture.sources], mixture.info, [kept for kept, _ in mixture.split(eval_split)]
    if run.allow_download and find_dataset(data.repo_id, data.root) is None:
        return [], None, []
    dataset = read_dataset(data.repo_id, data.root, tolerance_s=data.tolerance_s, video_backend=data.video_backend)
    # Of the chosen episodes, without those that are held out.
    kept, _ = split_episodes(dataset, eval_split, episodes=data.episodes)
    return [dataset], dataset, [kept]


def _check_arguments(arguments: list[str]) -> None:
    """Have LeRobot's own parser and its checks read the arguments, as the run's process will; imports LeRobot.

    Raises:
        UserError: They are refused.
    """
    import draccus
    from lerobot.configs import parser
    from lerobot.configs.train import TrainPipelineConfig

    said, before = io.StringIO(), sys.argv
    sys.argv = ["lerobot-train", *arguments]  # its checks look there for what was given
    try:
        with contextlib.redirect_stderr(said):
            kept = parser.filter_path_args(TrainPipelineConfig.__get_path_fields__(), arguments)
            draccus.parse(config_class=TrainPipelineConfig, args=kept).validate()
    except (Exception, SystemExit) as error:
        reason = said.getvalue().strip().rpartition("error: ")[2] or str(error)
        raise UserError(
            f"LeRobot did not accept the settings: {' '.join(reason.split())}", fix="change the named setting"
        ) from error
    finally:
        sys.argv = before


def _resolve_start(run: LeRobotRun) -> LeRobotRun:
    """The run with the `pretrained_model` folder that its `init_from` means."""
    start = str(run.model.init_from)
    if Path(start).exists():
        model = run.model.model_copy(update={"init_from": str(resolve_pretrained(Path(start)))})
        return run.model_copy(update={"model": model})
    if not run.allow_download:
        raise UserError(
            f"{start!r} is not a folder on this machine",
            where="--init-from / model.init_from",
            fix="give a local folder, or add --allow-download",
        )
    return run


def _check_device(device: str | None) -> None:
    if device and device.startswith("cuda") and not any(Path(f).exists() for f in _GPU_FILES):
        raise UserError(
            f"device {device!r} was asked for, but this machine has no GPU that PyTorch could use",
            where="--device / trainer.device",
            fix="use --device cpu; `hlrp doctor` shows what this machine has",
        )


class ResumePlan(NamedTuple):
    """What a run that goes on will do.

    Args:
        command: The process to start.
        checkpoint: Where it starts from.
        warnings: Newer checkpoints that are skipped, a damaged manifest, what may be wrong with the data.
        steps: Those that the run will have.
        dataset: What it is trained on.
    """

    command: Command
    checkpoint: Checkpoint
    warnings: list[str]
    steps: int
    dataset: DatasetRecord


def plan_resume(directory: RunDirectory, run: LeRobotRun, steps: int | None) -> ResumePlan:
    """Decide the command that continues a run.

    Raises:
        UserError: No checkpoint, nothing left to do, or the data are not those that the run began with.
    """
    total = steps or directory.manifest.steps or run.trainer.steps
    checkpoint, warnings = resumable(directory, total, can_end=True)
    run = resumed_data(directory, run)
    datasets, _, kept = _local_data(run)
    check_same_data(directory, datasets)
    warnings += check_data(run, datasets) + rollout_warnings(run) + missed_rollouts(directory, run, checkpoint)
    selections = _select(run, datasets, kept)
    check_same_filter(directory, selections)
    section = run.trainer
    _check_device(section.device)
    check_loop_arguments(section.lerobot_args, section.device)
    arguments = resume_arguments(checkpoint, directory.path, total, run)
    command = build_command(run, arguments, directory.manifest.shuffling)
    dataset = directory.manifest.dataset if directory.manifest.tells_data else _described(run, datasets, selections)
    return ResumePlan(command, checkpoint, warnings, total, dataset)
