"""What Lightning trains: from the `model` section to a module, its data, and its weights for others to load."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.config import (
    ClassPath,
    FoundationModel,
    FromConfig,
    LaqModel,
    LightningRun,
    PolicyModel,
    resolve_class_path,
)
from hlrp.data.episodes import check_camera
from hlrp.errors import UserError, suggest
from hlrp.foundation.backends.registry import check_backend
from trainers.lifecycle import job_name
from trainers.streaming_checks import refuse_unstreamable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning.pytorch import LightningDataModule, LightningModule

    from hlrp.data.dataset_info import DatasetInfo

# Kind of model to its Lightning module; imported when a run asks for it.
MODULES: dict[str, str] = {
    "laq": "hlrp.laq.module:LAQModule",
    "foundation": "hlrp.foundation.vla_backend_module:FoundationModule",
}


def check_model(run: LightningRun, datasets: "Sequence[DatasetInfo]") -> None:
    """Check what can be checked without importing torch.

    Args:
        run: The run.
        datasets: Its datasets.

    Raises:
        UserError: This trainer does not train the model as the run asks.
    """
    refuse_unstreamable(run, datasets)
    if isinstance(run.model, PolicyModel):
        from trainers.policy_checks import check_policy_run
        from trainers.policy_labels import mixture_of

        mixture = mixture_of(run)
        check_policy_run(run, mixture.info if mixture is not None else next(iter(datasets), None))
    elif isinstance(run.model, LaqModel) and run.data.cameras is None:
        for info in datasets:
            check_camera(info, None)
    elif isinstance(run.model, FoundationModel):
        check_backend(run.model.backend)
    elif not isinstance(run.model, ClassPath) and run.model.kind not in MODULES:
        asked = job_name(run)
        raise UserError(
            f"the Lightning trainer has no module for {asked!r}", where="model", fix=suggest(asked, MODULES)
        )


def build_datamodule(
    run: LightningRun,
    announce: "Callable[[str], None]",
    progress: "Callable[[int, int], None] | None" = None,
) -> "LightningDataModule":
    """The run's data: what its model asks for, of the sizes and spacing that it asks for.

    Args:
        run: The configuration.
        announce: Told what takes its time, such as decoding into the frame store.
        progress: Called meanwhile as (frames done, frames to do).

    Raises:
        UserError: The `data` section does not fit the dataset.
    """
    if isinstance(run.model, PolicyModel):
        from hlrp.data.lerobot_data_module import LeRobotDataModule
        from hlrp.data.policy_data_module import MixtureDataModule
        from trainers.policy_labels import mixture_of

        mixture = mixture_of(run)
        if mixture is not None:
            return MixtureDataModule.from_run(run, mixture, announce=announce, progress=progress)
        return LeRobotDataModule.from_run(run, announce=announce, progress=progress)
    from hlrp.data.data_module import FrameDataModule

    if isinstance(run.model, FoundationModel):
        from hlrp.foundation.data_module import FoundationDataModule

        return FoundationDataModule(run, announce=announce, progress=progress)
    options: dict[str, Any] = {"cameras": run.data.cameras, "cache_limit_gb": run.data.cache_limit_gb}
    if isinstance(run.model, LaqModel):
        from hlrp.laq.config import LAQConfig
        from hlrp.laq.grounding import grounded

        config = LAQConfig.from_run(run)
        options |= {"size": config.image_size, "offset_seconds": config.offset_seconds}
        if grounded(run):
            options |= {"with_actions": True, "labelled_share": run.model.labelled_share}
            options["labelled_episodes"] = run.model.labelled_episodes
    return FrameDataModule(run, announce=announce, progress=progress, **options)


def orders_itself(datamodule: Any) -> bool:
    """Whether the data give every process its own share, so that Lightning's distributed sampler must be off."""
    from hlrp.data.data_module import FrameDataModule
    from hlrp.data.policy_data_module import PolicyDataModule

    return isinstance(datamodule, FrameDataModule | PolicyDataModule)


def build_module(
    run: LightningRun, datamodule: "LightningDataModule | None", resumed_from: Path | None = None
) -> "LightningModule":
    """The module that the run trains.

    Args:
        run: The configuration.
        datamodule: The run's data; given to modules whose constructor has a parameter of that name.
        resumed_from: Checkpoint folder that the run continues.

    Raises:
        UserError: No module for this model, or it refuses its settings.
    """
    if isinstance(run.model, PolicyModel):
        from trainers.lightning.policies import build_adapter

        return build_adapter(run, resumed_from)
    if isinstance(run.model, ClassPath):
        return _build_class(run, datamodule)
    target = _load(MODULES[job_name(run)])
    module: LightningModule = target(**_known(target, {"run": run, "datamodule": datamodule}))
    return module


def check_classes(run: LightningRun) -> None:
    """Import the classes that a run names, if it names any.

    Raises:
        UserError: One may not be imported, does not exist, or is of another kind.
    """
    if isinstance(run.model, ClassPath):
        _module_class(run.model)
    if run.trainer.callbacks:
        from trainers.lightning.options import callback_class

        for callback in run.trainer.callbacks:
            callback_class(callback)


def _module_class(model: ClassPath) -> Any:
    from lightning.pytorch import LightningModule

    found: Any = resolve_class_path(model.class_path)
    if not issubclass(found, LightningModule):
        raise UserError(
            f"{model.class_path!r} is not a LightningModule",
            where="model.class_path",
            fix="name a subclass of lightning.pytorch.LightningModule",
        )
    return found


def _build_class(run: LightningRun, datamodule: "LightningDataModule | None") -> "LightningModule":
    if not isinstance(run.model, ClassPath):
        raise TypeError("the model section names no class")
    found = _module_class(run.model)
    arguments = _known(found, {"datamodule": datamodule}) | run.model.init_args
    module: LightningModule = (
        found.from_config(arguments) if issubclass(found, FromConfig) else _construct(found, arguments)
    )
    return module


def _construct(target: Any, arguments: dict[str, Any]) -> Any:
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"{target.__name__} cannot be built: {error}",
            where="model.init_args",
            fix=suggest("", inspect.signature(target).parameters),
        ) from error
    return target(**arguments)


def _known(target: Any, offered: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(target).parameters
    return {name: value for name, value in offered.items() if name in parameters}


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def export(module: "LightningModule", folder: Path) -> None:
    """Write what others load without this trainer, through the module's own `save_pretrained(folder)` if it has one.

    Args:
        module: What is trained.
        folder: `pretrained_model/` of a checkpoint; made here. Without the method it is not made at all.
    """
    save = getattr(module, "save_pretrained", None)
    if callable(save):
        folder.mkdir(parents=True, exist_ok=True)
        save(folder)
