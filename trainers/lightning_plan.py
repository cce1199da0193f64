"""Making what a Lightning run needs: data, trainer and module, by the run itself and by its dry run alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.config import LightningRun, LightningTrainerSection, PolicyModel
from hlrp.errors import UserError
from trainers.lightning_models import build_datamodule, build_module, check_classes, orders_itself

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer

    from hlrp.runs import Checkpoint


def log_interval(section: LightningTrainerSection) -> int:
    """Steps between rows of metrics."""
    from trainers.lerobot_command import default_log_freq

    # With a length in epochs the steps are not known yet.
    return section.log_freq or (default_log_freq(section.steps) if section.max_epochs is None else 50)


def prepare(
    run: LightningRun,
    path: Path,
    module: "LightningModule | None",
    datamodule: Any,
    *,
    checkpoint: "Checkpoint | None",
    say: "Callable[[str], None]",
) -> "tuple[Trainer, LightningModule, Any]":
    """Make what is missing of data, trainer and module, in this order; a refusal leaves nothing on disk.

    Args:
        run: The run.
        path: Its folder, which need not exist yet.
        module: What to train; None: as the run says.
        datamodule: Its data; None: as the run says.
        checkpoint: Where a resumed run goes on.
        say: Told what takes its time.

    Raises:
        UserError: A setting of the run that cannot be.
    """
    # Before Lightning's own import, which this shortens by seconds.
    from trainers import lightning_imports  # noqa: F401  isort: skip
    from lightning.pytorch import Trainer

    from trainers.lightning_options import trainer_arguments
    from trainers.lightning_policies import settle

    if isinstance(run.model, PolicyModel) and run.env is not None:
        from trainers.policy_checks import check_environment_fields

        check_environment_fields(run.env)
    if module is None:
        check_classes(run)
    datamodule = build_datamodule(run, say) if datamodule is None else datamodule
    arguments = trainer_arguments(
        settle(run),
        path,
        start=checkpoint.step if checkpoint else 0,
        log_freq=log_interval(run.trainer),
        share_out=not orders_itself(datamodule),
    )
    trainer = _make_trainer(Trainer, arguments)
    if module is None:
        module = build_module(run, datamodule, checkpoint.path if checkpoint else None)
    return trainer, module, datamodule


def _make_trainer(cls: "type[Trainer]", arguments: dict[str, Any]) -> "Trainer":
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    try:
        return cls(**arguments)
    except (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError) as error:
        raise UserError(
            f"Lightning refuses these settings: {error}", where="trainer", fix="change the named setting"
        ) from error
