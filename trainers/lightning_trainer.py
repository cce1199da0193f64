"""Lightning's training behind the same interface as LeRobot's: one configuration, one kind of run directory."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from hlrp.config import (
    LightningRun,
    LightningTrainerSection,
    PolicyModel,
    refuse_unused,
    require_dataset,
    to_yaml,
)
from hlrp.data.dataset_info import DatasetInfo, check_episodes, read_dataset
from hlrp.errors import UserError
from hlrp.runs import RunDirectory, new_run_path
from hlrp.runs.directory import git_commit
from trainers.base import BaseTrainer, RunResult, without_log_lines
from trainers.lightning_models import check_model, job_name
from trainers.lightning_plan import log_interval, prepare

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from rich.console import Console
    from torch.utils.data import DataLoader

    from hlrp.runs import Checkpoint
    from trainers.lightning_rollouts import Rollouts


class LightningTrainer(BaseTrainer):
    """Runs Lightning's training on this project's modules, or on any LightningModule.

    Args:
        settings: Fields of the `trainer` section: `steps`, `batch_size`, `callbacks`, `strategy`, ...
    """

    trainer_type: ClassVar[str] = "lightning"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def fit(
        self,
        module: "LightningModule | None" = None,
        datamodule: "LightningDataModule | DataLoader[Any] | None" = None,
        *,
        run: LightningRun | None = None,
        output_dir: Path | str | None = None,
    ) -> RunResult:
        """Train a module with Lightning.

        Args:
            module: What to train; built from ``run`` if not given.
            datamodule: Its data, or a plain DataLoader; built from ``run`` if not given.
            run: A whole run configuration. Its `trainer` section replaces this trainer's settings.
            output_dir: Run directory to make; by default the run's, or `outputs/<module>/<time>`.

        Raises:
            UserError: A mistake in what was asked; nothing is left on disk.
            WorkError: Training failed; the run says why.
            Interrupted: Stopped by a signal after a checkpoint was saved.
        """
        if run is None:
            run = self._run_for(module, datamodule)
        if output_dir is not None:
            run = run.model_copy(update={"output_dir": Path(output_dir)})
        dataset = self._check(run, needs_data=datamodule is None, needs_module=module is None)
        return _execute(run, module, datamodule, dataset=dataset)

    def _run_for(self, module: "LightningModule | None", datamodule: Any) -> LightningRun:
        if module is None:
            raise UserError("nothing says what to train", fix="give a module, or run=LightningRun(...)")
        from trainers.lightning_policies import described

        sections: dict[str, Any] = described(self.settings, module, datamodule) or {"trainer": self.settings}
        if "model" not in sections:
            cls = type(module)
            # The record of a module made in Python: it can be looked at, and resumed with the module given again.
            place = ".".join(part for part in f"{cls.__module__}.{cls.__qualname__}".split(".") if part.isidentifier())
            sections["model"] = {"class_path": place}
        try:
            section = LightningTrainerSection(**sections["trainer"])
            return LightningRun(**{**sections, "trainer_type": "lightning", "trainer": section})
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                where="LightningTrainer(...)" if first["loc"][:1] != ("model",) else type(module).__name__,
                fix=f"settings are {', '.join(LightningTrainerSection.model_fields)}",
            ) from error

    @staticmethod
    def _check(run: LightningRun, *, needs_data: bool, needs_module: bool) -> list[DatasetInfo]:
        """Refuse what can be refused before torch is imported; return the datasets of the run."""
        refuse_unused(run)
        if needs_data:
            require_dataset(run)
        # Data made in Python are a run's too where the module could describe them.
        datasets = find_datasets(run) if needs_data or run.data.root is not None else []
        if needs_module:
            check_model(run, datasets)
        return datasets

    def resume(
        self,
        directory: RunDirectory,
        run: LightningRun,
        *,
        steps: int | None = None,
        module: "LightningModule | None" = None,
        datamodule: "LightningDataModule | DataLoader[Any] | None" = None,
    ) -> RunResult:
        """Continue a run from its newest complete checkpoint, in its own folder.

        Args:
            directory: The run.
            run: Its configuration.
            steps: New length of the run.
            module: For a run that was started with a module made in Python: that module, made again.
            datamodule: The same for its data.
        """
        checkpoint, skipped, run = plan_resume(directory, run, steps)
        dataset = self._check(run, needs_data=datamodule is None, needs_module=module is None)
        _check_same_data(directory, dataset)
        return _execute(
            run, module, datamodule, dataset=dataset, directory=directory, checkpoint=checkpoint, notes=skipped
        )

    @staticmethod
    def dry_run(run: LightningRun, *, resume: RunDirectory | None = None, steps: int | None = None) -> str:
        """What would be trained, after every check that the run makes; model and data are made, nothing is written."""
        checkpoint = None
        if resume is not None:
            checkpoint, _, run = plan_resume(resume, run, steps)
        datasets = LightningTrainer._check(run, needs_data=True, needs_module=True)
        if resume is not None:
            _check_same_data(resume, datasets)
        path = resume.path if resume else _new_path(run, True)
        with without_log_lines():
            prepare(run, path, None, None, checkpoint=checkpoint, say=lambda _: None)
            if isinstance(run.model, PolicyModel) and checkpoint is None:
                from trainers.policy_checks import check_with_lerobot

                check_with_lerobot(run, datasets[0])
        trainer, start = run.trainer, checkpoint.step if checkpoint else 0
        length = f"{trainer.max_epochs} epochs" if trainer.max_epochs else f"steps {start} to {trainer.steps}"
        batch = trainer.batch_size * trainer.devices * trainer.accumulate_grad_batches
        data = "\n".join(
            f"data      {d.root} ({d.episodes} episodes, {d.frames} frames, {d.fps:g} fps)" for d in datasets
        )
        return f"train     {job_name(run)} with Lightning, {length}, {batch} samples per step\n{data}"


def find_datasets(run: LightningRun) -> list[DatasetInfo]:
    """The datasets that the run names, checked by their metadata.

    Raises:
        UserError: One is missing or broken, or an episode does not exist.
    """
    data = run.data
    if data.sources:
        return [read_dataset(s.repo_id, s.root, where=f"data.sources.{i}") for i, s in enumerate(data.sources)]
    dataset = read_dataset(data.repo_id, data.root)
    check_episodes(dataset, data.episodes)
    return [dataset]


def plan_resume(
    directory: RunDirectory, run: LightningRun, steps: int | None
) -> "tuple[Checkpoint, list[str], LightningRun]":
    """Find the checkpoint to continue from.

    Returns:
        The checkpoint, a line for each newer one that cannot be used, and the run with its new length.

    Raises:
        UserError: There is none, or the run is complete.
    """
    from trainers.lerobot_trainer import resumable

    checkpoint, skipped = resumable(directory)
    section = run.trainer
    if steps is not None:
        section = section.model_copy(update={"steps": steps, "max_epochs": None})
    total = section.steps if section.max_epochs is None else int(directory.manifest.get("steps") or sys.maxsize)
    if total <= checkpoint.step:
        raise UserError(
            f"the run is complete: it has {checkpoint.step} of {total} steps",
            where=str(directory.path),
            fix=f"train longer with --resume {directory.path} --steps {checkpoint.step * 2}",
        )
    return checkpoint, skipped, run.model_copy(update={"trainer": section})


def _check_same_data(directory: RunDirectory, datasets: list[DatasetInfo]) -> None:
    """Refuse to continue on data that have changed: the order and the held-out episodes would be others."""
    before = directory.manifest.get("dataset", {}).get("fingerprint")
    now = _describe(datasets).get("fingerprint")
    if before and now and before != now:
        raise UserError(
            f"the data have changed since the run began: fingerprint {before} then, {now} now",
            where=", ".join(str(d.root) for d in datasets),
            fix="restore the dataset, or start a new run",
        )


def _describe(datasets: list[DatasetInfo]) -> dict[str, Any]:
    described = [
        {
            "repo_id": d.repo_id,
            "root": str(d.root.absolute()),
            "fingerprint": d.fingerprint(),
            "episodes": d.episodes,
            "frames": d.frames,
            "fps": d.fps,
        }
        for d in datasets
    ]
    if len(described) == 1:
        return described[0]
    joined = "+".join(str(d["fingerprint"]) for d in described)
    return {"sources": described, "fingerprint": joined} if described else {}


def _execute(
    run: LightningRun,
    module: "LightningModule | None",
    datamodule: Any,
    *,
    dataset: list[DatasetInfo],
    directory: RunDirectory | None = None,
    checkpoint: "Checkpoint | None" = None,
    notes: list[str] | None = None,
) -> RunResult:
    """Build what is missing and run it; the folder is made last, so that a refusal leaves nothing."""
    from rich.console import Console

    # Before Lightning's own import, which this shortens by seconds.
    from trainers import lightning_imports  # noqa: F401  isort: skip
    from lightning.pytorch import seed_everything
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from trainers.lightning_recording import log_file
    from trainers.lightning_session import LightningSession, SessionPlan

    section, first = run.trainer, getattr(rank_zero_only, "rank", 0) == 0
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not first)
    path = directory.path if directory else _new_path(run, first)
    rollouts = _rollouts(run, path)
    for note in notes or []:
        console.print(f"warning: {note}", style="yellow")
    console.print(f"making the model and the data ({job_name(run)})")
    seed_everything(section.seed, workers=True, verbose=False)
    own_data = datamodule is not None
    with log_file(None):
        trainer, module, datamodule = prepare(run, path, module, datamodule, checkpoint=checkpoint, say=console.print)
    if first:
        directory = _open(run, path, dataset, directory, checkpoint, notes or [])
        console.print(f"run: {path}")
        if not own_data:
            _announce(console, run, trainer)
    plan = SessionPlan(
        log_freq=log_interval(section),
        save_freq=section.save_freq,
        keep_last=section.keep_last,
        seed=section.seed,
        resume_from=checkpoint.path if checkpoint else None,
        warnings=notes or [],
        rollouts=rollouts,
    )
    session = LightningSession(trainer, directory if first else None, plan, console)
    return session.run(module, datamodule, compiled=section.compile)


def _rollouts(run: LightningRun, path: Path) -> "Rollouts | None":
    if run.trainer.eval_freq == 0:
        return None
    from trainers.lightning_rollouts import Rollouts

    return Rollouts.of(run, path / "eval")


def _new_path(run: LightningRun, first: bool) -> Path:
    # Other processes write nothing, and the first one may have made the folder already.
    return new_run_path(run.output_dir, run.job_name or job_name(run)) if first else Path.cwd()


def _open(
    run: LightningRun,
    path: Path,
    dataset: list[DatasetInfo],
    directory: RunDirectory | None,
    checkpoint: "Checkpoint | None",
    notes: list[str],
) -> RunDirectory:
    if directory is not None and checkpoint is not None:
        from trainers.lightning_checkpoints import clear_unfinished

        clear_unfinished(directory.path / "checkpoints")
        directory.rewind_metrics(checkpoint.step)
        resumed = [*directory.manifest.get("resumed", []), {"step": checkpoint.step, "skipped": notes}]
        directory.update(status="running", steps=run.trainer.steps, resumed=resumed, reason=None)
        return directory
    return RunDirectory.create(
        path,
        config_yaml=to_yaml(run),
        trainer="lightning",
        policy=job_name(run),
        dataset=_describe(dataset),
        seed=run.trainer.seed,
        steps=run.trainer.steps,
        git_commit=git_commit(Path(__file__).parent),
        command=sys.argv,
        warnings=notes,
    )


def _announce(console: "Console", run: LightningRun, trainer: "Trainer") -> None:
    section = run.trainer
    batch = section.batch_size * trainer.world_size * section.accumulate_grad_batches
    console.print(
        f"{batch} samples per step ({section.batch_size} x {trainer.world_size} processes x "
        f"{section.accumulate_grad_batches} accumulated) on {trainer.strategy.root_device}"
    )
