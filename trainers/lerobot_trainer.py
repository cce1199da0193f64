"""LeRobot's own training in a process of its own, with our configuration, run directory and progress around it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hlrp.catalog import build_catalog, cached_catalog
from hlrp.compat import lerobot_version
from hlrp.config import LeRobotRun, load_config, require_dataset, to_yaml
from hlrp.data.dataset_info import DatasetInfo, check_episodes, find_dataset, read_dataset, require_training_features
from hlrp.errors import UserError
from hlrp.runs import Checkpoint, RunDirectory, claim_run_path, new_run_path, resolve_pretrained
from hlrp.runs.directory import git_commit
from trainers.base import BaseTrainer, RunResult
from trainers.lerobot_command import Command, build_arguments, build_command, resume_arguments
from trainers.lerobot_session import TrainingSession
from trainers.policy_labels import foundation_of

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
        return train(run)

    def resume(self, directory: RunDirectory, run: LeRobotRun, *, steps: int | None = None) -> RunResult:
        """Continue a run from its newest complete checkpoint, in its own folder."""
        return resume(directory, run, steps)

    @staticmethod
    def dry_run(run: LeRobotRun, *, resume: RunDirectory | None = None, steps: int | None = None) -> str:
        """The command that a run would start, after every check that needs no LeRobot."""
        command = plan_resume(resume, run, steps)[0] if resume else plan(run)[0]
        return command.shown()


def plan(run: LeRobotRun, path: Path | None = None) -> tuple[Command, DatasetInfo | None, Path, int]:
    """Check everything that can be checked without LeRobot, and decide the command.

    Args:
        run: The configuration.
        path: The run directory, if one is claimed; None: the one that the run would have.

    Returns:
        The command, the local dataset (None if LeRobot is to download it), the run directory and its steps.

    Raises:
        UserError: The first mistake found.
    """
    lerobot_version()
    require_dataset(run)
    if run.data.sources:
        raise UserError(
            "LeRobot's training takes one dataset",
            where="data.sources",
            fix="give data.root or data.repo_id, or use --trainer lightning",
        )
    known = _check_policy(run)
    _check_device(run.trainer.device)
    dataset = None
    if not run.allow_download or find_dataset(run.data.repo_id, run.data.root) is not None:
        dataset = read_dataset(run.data.repo_id, run.data.root)
        require_training_features(dataset)
        check_episodes(dataset, run.data.episodes)
    if run.trainer.max_epochs is not None and dataset is None:
        raise UserError(
            "epochs cannot be converted to steps before the dataset is here",
            where="trainer.max_epochs",
            fix="give --steps",
        )
    if run.model.init_from and not foundation_of(run.model):
        run = _resolve_start(run)
    steps = run.trainer.total_steps(_frames(dataset, run)) if dataset else run.trainer.steps
    path = path or new_run_path(run.output_dir, run.job_name or run.model.policy_type)
    return build_command(run, build_arguments(run, dataset, path, steps, known)), dataset, path, steps


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


def _frames(dataset: DatasetInfo, run: LeRobotRun) -> int:
    if run.data.episodes is None:
        return dataset.frames
    return max(1, round(dataset.frames * len(run.data.episodes) / dataset.episodes))


def _check_policy(run: LeRobotRun) -> Mapping[str, Any] | None:
    """Check the policy's name and fields against the catalog; without one LeRobot's own process does, a bit later."""
    catalog = cached_catalog()
    if catalog is None:
        if not run.trainer.precision:
            return None
        # Whether precision is a field of the policy decides the command itself.
        catalog = build_catalog()
    catalog.check_fields(run.model.policy_type, run.model.policy_fields)
    return catalog.policy(run.model.policy_type).fields


def _check_device(device: str | None) -> None:
    if device and device.startswith("cuda") and not any(Path(f).exists() for f in _GPU_FILES):
        raise UserError(
            f"device {device!r} was asked for, but this machine has no GPU that PyTorch could use",
            where="--device / trainer.device",
            fix="use --device cpu; `hlrp doctor` shows what this machine has",
        )


def train(run: LeRobotRun) -> RunResult:
    """Run a fresh training."""
    with claim_run_path(run.output_dir, run.job_name or run.model.policy_type) as lock:
        command, dataset, path, steps = plan(run, lock.folder)

        def create() -> RunDirectory:
            return RunDirectory.create(
                path,
                config_yaml=to_yaml(run),
                trainer="lerobot",
                policy=run.model.policy_type,
                dataset=_describe(dataset, run),
                seed=run.trainer.seed,
                steps=steps,
                git_commit=git_commit(Path(__file__).parent),
                command=command.argv,
                warnings=[],
            )

        return TrainingSession(command, lock, create, steps=steps).run()


def _describe(dataset: DatasetInfo | None, run: LeRobotRun) -> dict[str, Any]:
    if dataset is None:
        return {"repo_id": run.data.repo_id}
    return {
        "repo_id": dataset.repo_id,
        "root": str(dataset.root.absolute()),
        "fingerprint": dataset.fingerprint(),
        "episodes": dataset.episodes,
        "frames": dataset.frames,
        "fps": dataset.fps,
    }


def resumable(directory: RunDirectory) -> tuple[Checkpoint, list[str]]:
    """The newest complete checkpoint of a run, and a line for each newer one that is skipped.

    Raises:
        UserError: The run has no complete checkpoint.
    """
    checkpoints = directory.checkpoints()
    newest = directory.latest()
    if newest is None:
        broken = "; ".join(f"{c.path.name}: {c.problem}" for c in checkpoints)
        raise UserError(
            "this run has no complete checkpoint to resume from" + (f" ({broken})" if broken else ""),
            where=str(directory.path / "checkpoints"),
            fix="start it again with the same settings",
        )
    skipped = [f"checkpoint {c.path.name} is skipped: {c.problem}" for c in checkpoints if c.step > newest.step]
    return newest, skipped


def plan_resume(
    directory: RunDirectory, run: LeRobotRun, steps: int | None
) -> tuple[Command, Checkpoint, list[str], int]:
    """Decide the command that continues a run.

    Returns:
        The command, the checkpoint it starts from, what is skipped, and the steps the run will have.
    """
    checkpoint, skipped = resumable(directory)
    total = steps or int(directory.manifest.get("steps") or run.trainer.steps)
    if total <= checkpoint.step:
        raise UserError(
            f"the run is complete: it has {checkpoint.step} of {total} steps",
            where=str(directory.path),
            fix=f"train longer with --resume {directory.path} --steps {checkpoint.step * 2}",
        )
    extra = run.trainer.lerobot_args
    _check_device(run.trainer.device)
    arguments = resume_arguments(checkpoint, directory.path, total, extra)
    return build_command(run, arguments), checkpoint, skipped, total


def resume(directory: RunDirectory, run: LeRobotRun, steps: int | None = None) -> RunResult:
    """Continue a run from its newest complete checkpoint, in its own folder."""
    with directory.sole_writer() as lock:
        command, checkpoint, notes, total = plan_resume(directory, run, steps)

        def reopen() -> RunDirectory:
            notes.extend(directory.rewind_metrics(checkpoint.step))
            resumed = [*directory.manifest.get("resumed", []), {"step": checkpoint.step, "skipped": notes}]
            directory.update(status="running", steps=total, command=command.argv, resumed=resumed, reason=None)
            return directory

        return TrainingSession(command, lock, reopen, steps=total, start=checkpoint.step, notes=notes).run()
