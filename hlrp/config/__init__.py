"""Configuration: one schema for both trainers, loading from YAML, arguments and flags, and `FromConfig`.

Names are imported on first use, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlrp.config.aliases import resolve_policy_aliases
    from hlrp.config.base import parse_episodes
    from hlrp.config.class_path import allow_import, resolve_class_path
    from hlrp.config.from_config import FromConfig
    from hlrp.config.loading import Resolved, is_eval_file, load_config, load_eval_config, to_yaml
    from hlrp.config.obeyed import refuse_unused
    from hlrp.config.schema import (
        ClassPath,
        DataSection,
        EnvSection,
        EvalConfig,
        EvalFile,
        FoundationModel,
        LaqModel,
        LatentsSection,
        LeRobotRun,
        LeRobotTrainerSection,
        LightningRun,
        LightningTrainerSection,
        OtherRun,
        PolicyModel,
        RunConfig,
        SourceSection,
        TrainerSection,
        require_dataset,
    )
    from hlrp.config.shipped import find_config, shipped_config, shipped_names
    from hlrp.config.trainer_sections import steps_for_epochs

__all__ = [
    "ClassPath",
    "DataSection",
    "EnvSection",
    "EvalConfig",
    "EvalFile",
    "FoundationModel",
    "FromConfig",
    "LaqModel",
    "LatentsSection",
    "LeRobotRun",
    "LeRobotTrainerSection",
    "LightningRun",
    "LightningTrainerSection",
    "OtherRun",
    "PolicyModel",
    "Resolved",
    "RunConfig",
    "SourceSection",
    "TrainerSection",
    "allow_import",
    "find_config",
    "is_eval_file",
    "load_config",
    "load_eval_config",
    "parse_episodes",
    "refuse_unused",
    "require_dataset",
    "resolve_class_path",
    "resolve_policy_aliases",
    "shipped_config",
    "shipped_names",
    "steps_for_epochs",
    "to_yaml",
]

# Names that are not listed here live in `schema`.
_HOME_OF = {
    "FromConfig": "from_config",
    "Resolved": "loading",
    "allow_import": "class_path",
    "find_config": "shipped",
    "is_eval_file": "loading",
    "load_config": "loading",
    "load_eval_config": "loading",
    "parse_episodes": "base",
    "refuse_unused": "obeyed",
    "resolve_class_path": "class_path",
    "resolve_policy_aliases": "aliases",
    "shipped_config": "shipped",
    "shipped_names": "shipped",
    "steps_for_epochs": "trainer_sections",
    "to_yaml": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF.get(name, 'schema')}"), name)
