"""Lightning's training behind the same interface as LeRobot's: one configuration, one kind of run directory."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hlrp.config import LightningRun, PolicyModel, refuse_unused, require_dataset
from hlrp.data.dataset_info import DatasetInfo
from hlrp.files import clear_leftovers
from hlrp.ranks import Launch, is_first_process
from hlrp.runs import RunDirectory, claim_run_path, new_run_path
from trainers.base import BaseTrainer, RunResult, without_log_lines
from trainers.camera_names import with_camera_names
from trainers.crew import Crew, placed
from trainers.fetching import fetched, fetched_before
from trainers.lifecycle import RunLifecycle, job_name, resumable, with_length
from trainers.lightning.models import (
    build_datamodule,
    build_module,
    check_classes,
    check_model,
    orders_itself,
)
from trainers.lightning.policies import refuse_other_precision
from trainers.lightning.python_runs import refuse_to_go_on_without, run_of, undescribed
from trainers.moved_data import from_its_checkpoint, resumed_data
from trainers.policy_labels import check_held_out
from trainers.pushing import check_push
from trainers.rollout_plan import rollout_warnings
from trainers.run_data import (
    check_data,
    check_same_data,
    check_same_filter,
    describe_data,
    error_console,
    find_datasets,
    reading_told,
    with_absolute_paths,
)

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from torch.utils.data import DataLoader

    from hlrp.data.filtering import Selection
    from hlrp.runs import Checkpoint, DatasetRecord


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
            run = run_of(self.settings, module, datamodule)
        if output_dir is not None:
            run = run.model_copy(update={"output_dir": Path(output_dir)})
        run = placed(run, Launch.of(os.environ))
        if datamodule is None:
            run = with_camera_names(fetched(run), error_console().print)
        run = with_absolute_paths(run)
        dataset = self._check(run, needs_data=datamodule is None, needs_module=module is None)
        check_push(run.push_to_hub)
        notes = check_data(run, dataset) + check_held_out(run, dataset) + rollout_warnings(run)
        return _execute(run, module, datamodule, dataset=dataset, notes=notes)

    @staticmethod
    def _check(run: LightningRun, *, needs_data: bool, needs_module: bool) -> list[DatasetInfo]:
        """Refuse what can be refused before torch is imported; return the datasets of the run."""
        refuse_unused(run)
        if needs_data:
            require_dataset(run)
        # Data made in Python are a run's too where the module could describe them.
        datasets = find_datasets(run) if needs_data or run.data.root is not None or run.data.sources else []
        if needs_module or isinstance(run.model, PolicyModel):
            check_model(run, datasets)
        if not needs_module and isinstance(run.model, PolicyModel):
            refuse_other_precision(run)
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

        Raises:
            UserError: See `plan_resume`; or module or data have to be given again.
        """
        # Of several processes the first one writes, for all of them.
        with directory.sole_writer() if is_first_process() else nullcontext():
            refuse_to_go_on_without(directory, module, datamodule)
            run = placed(run, Launch.of(os.environ), resumed=True)
            checkpoint, notes, run = plan_resume(directory, run, steps)
            dataset = self._check(run, needs_data=datamodule is None, needs_module=module is None)
            check_same_data(directory, dataset)
            check_push(run.push_to_hub)
            notes += check_data(run, dataset) + rollout_warnings(run)
            return _execute(
                run, module, datamodule, dataset=dataset, directory=directory, checkpoint=checkpoint, notes=notes
            )

    @staticmethod
    def dry_run(run: LightningRun, *, resume: RunDirectory | None = None, steps: int | None = None) -> str:
        """What would be trained, after every check that the run makes; model and data are made, nothing is written."""
        checkpoint = None
        run = placed(run, Launch.of(os.environ), resumed=resume is not None)
        if resume is None:
            run = with_camera_names(run, error_console().print)
        else:
            refuse_to_go_on_without(resume)
            checkpoint, _, run = plan_resume(resume, run, steps)
        run = fetched_before(run)
        datasets = LightningTrainer._check(run, needs_data=True, needs_module=True)
        if resume is not None:
            check_same_data(resume, datasets)
        check_data(run, datasets)
        path = resume.path if resume else new_run_path(run.output_dir, run.job_name or job_name(run))
        with without_log_lines():
            # A filter may have to read all frames.
            told = reading_told(error_console()) if run.data.filter.given else {"announce": lambda _: None}
            *_, data = _prepare(run, path, None, None, checkpoint=checkpoint, **told)
            selections = _selections(data, resume)
            if isinstance(run.model, PolicyModel) and checkpoint is None:
                from trainers.policy_checks import check_with_lerobot

                check_held_out(run, datasets)
                check_with_lerobot(run, datasets[0])
        trainer, start = run.trainer, checkpoint.step if checkpoint else 0
        length = f"{trainer.max_epochs} epochs" if trainer.max_epochs else f"steps {start} to {trainer.steps}"
        batch = trainer.batch_size * trainer.processes * trainer.accumulate_grad_batches
        lines = [f"train     {job_name(run)} with Lightning, {length}, {batch} samples per step"]
        lines += [f"data      {d.root} ({d.episodes} episodes, {d.frames} frames, {d.fps:g} fps)" for d in datasets]
        return "\n".join([*lines, *(selection.describe() for selection in selections)])


def plan_resume(
    directory: RunDirectory, run: LightningRun, steps: int | None
) -> "tuple[Checkpoint, list[str], LightningRun]":
    """Find the checkpoint to continue from.

    Returns:
        The checkpoint, a line for each newer one that cannot be used, and the run as it goes on from it.

    Raises:
        UserError: There is none, or the run is complete.
    """
    section, total = with_length(directory, run.trainer, steps)
    checkpoint, skipped = resumable(directory, total, can_end=True)
    run = resumed_data(directory, run.model_copy(update={"trainer": section}))
    return checkpoint, skipped, from_its_checkpoint(run, checkpoint.path)


def _execute(
    run: LightningRun,
    module: "LightningModule | None",
    datamodule: Any,
    *,
    dataset: list[DatasetInfo],
    directory: RunDirectory | None = None,
    checkpoint: "Checkpoint | None" = None,
    notes: Sequence[str] = (),
) -> RunResult:
    """Build what is missing and run it; the folder is filled last, so that a refusal leaves nothing."""
    from trainers.lightning.log import RunLog

    first = is_first_process()
    lifecycle = RunLifecycle(notes, quiet=not first)
    announce = lifecycle.console.print
    # Claimed before the seconds of imports.
    with _folder(run, directory, first) as path, RunLog(lifecycle.warn) as log:
        # Before Lightning's own import, which this shortens.
        from trainers.lightning import imports  # noqa: F401  isort: skip
        from lightning.pytorch import seed_everything

        from trainers.lightning.session import LightningSession

        announce(f"making the model and the data ({job_name(run)})")
        seed_everything(run.trainer.seed, workers=True, verbose=False)
        told = reading_told(lifecycle.console)
        trainer, module, data = _prepare(run, path, module, datamodule, checkpoint=checkpoint, **told)
        selections = _selections(data, directory)
        for selection in selections:
            announce(selection.describe())
        if first and datamodule is None:
            _announce(announce, run, trainer)
        rollouts = None
        if run.trainer.eval_freq:
            from trainers.lightning.rollouts import Rollouts

            rollouts = Rollouts(run.trainer, path / "eval")
        resumed = checkpoint.path if checkpoint else None
        session = LightningSession(trainer, lifecycle, run.trainer, resume_from=resumed, rollouts=rollouts)
        facts = (describe_data(dataset, selections), directory, checkpoint, undescribed(module, data))
        return session.run(module, data, log, partial(_begin, lifecycle, run, path, *facts) if first else None)


def _prepare(
    run: LightningRun,
    path: Path,
    module: "LightningModule | None",
    datamodule: Any,
    *,
    checkpoint: "Checkpoint | None",
    announce: "Callable[[str], None]",
    progress: "Callable[[int, int], None] | None" = None,
) -> "tuple[Trainer, LightningModule, Any]":
    """Make what is missing of data, trainer and module, in this order; a refusal leaves nothing on disk.

    Raises:
        UserError: A setting of the run that cannot be.
    """
    # Before Lightning's own import, which this shortens by seconds.
    from trainers.lightning import imports  # noqa: F401  isort: skip
    from hlrp.policies import LeRobotPolicyAdapter
    from trainers.lightning.layers import check_layers
    from trainers.lightning.options import make_trainer
    from trainers.lightning.policies import go_on_from, resolve_defaults

    if isinstance(run.model, PolicyModel) and run.env is not None:
        from trainers.policy_checks import check_environment_fields

        check_environment_fields(run.env)
    if module is None:
        check_classes(run)
    data = datamodule if datamodule is not None else build_datamodule(run, announce, progress)
    start = checkpoint.step if checkpoint else 0
    trainer = make_trainer(resolve_defaults(run), path, start=start, shard_samples=not orders_itself(data))
    if module is None:
        module = build_module(run, data, checkpoint.path if checkpoint else None)
    elif checkpoint is not None and isinstance(module, LeRobotPolicyAdapter):
        go_on_from(module, checkpoint.path)
    check_layers(module, run.trainer)
    return trainer, module, data


def _selections(data: Any, directory: RunDirectory | None) -> "list[Selection]":
    """What the run's filter leaves of its data; of a run that is continued it must be what it began with."""
    selections: list[Selection] = data.selections() if hasattr(data, "selections") else []
    if directory is not None:
        check_same_filter(directory, selections)
    return selections


@contextmanager
def _folder(run: LightningRun, directory: RunDirectory | None, first: bool) -> Iterator[Path]:
    """The folder of the run: of one that is continued, or claimed for a fresh one."""
    crew = Crew.current
    if not first:
        # It writes nothing; where nobody names the folder to it, the first process may have made that already.
        yield Path(crew.agree("folder", Path)) if crew is not None else Path.cwd()
        return
    with ExitStack() as stack:
        path = directory.path if directory is not None else None
        if path is None:
            path = stack.enter_context(claim_run_path(run.output_dir, run.job_name or job_name(run))).folder
        if crew is not None:
            crew.agree("folder", lambda: str(path))
        yield path


def _begin(
    lifecycle: RunLifecycle,
    run: LightningRun,
    path: Path,
    record: "DatasetRecord",
    directory: RunDirectory | None,
    checkpoint: "Checkpoint | None",
    left_out: dict[str, str],
) -> None:
    steps = run.trainer.steps
    if directory is None or checkpoint is None:
        fields: dict[str, Any] = {"policy": job_name(run), "steps": steps, "undescribed": left_out}
        lifecycle.create(path, run, dataset=record, command=sys.argv, **fields)
        return
    clear_leftovers(directory.path / "checkpoints")
    lifecycle.reopen(directory, checkpoint, dataset=record, run=run, steps=steps)


def _announce(announce: Callable[[str], None], run: LightningRun, trainer: "Trainer") -> None:
    section = run.trainer
    batch = section.batch_size * trainer.world_size * section.accumulate_grad_batches
    announce(
        f"{batch} samples per step ({section.batch_size} x {trainer.world_size} processes x "
        f"{section.accumulate_grad_batches} accumulated) on {trainer.strategy.root_device}"
    )
