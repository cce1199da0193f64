"""Configuration: one schema for both trainers, loading from YAML, arguments and flags, and `FromConfig`.

Names are imported on first use, so that importing this package costs nothing.
"""

from typing import TYPE_CHECKING

from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.aliases import resolve_policy_aliases
    from hlrp.config.base import parse_episodes
    from hlrp.config.class_path import allow_import, resolve_class_path
    from hlrp.config.from_config import FromConfig
    from hlrp.config.loading import Resolved, is_eval_file, load_config, load_eval_config, to_yaml
    from hlrp.config.models import FoundationModel, LaqModel, PolicyModel
    from hlrp.config.obeyed import refuse_unused, refuse_unused_by_other
    from hlrp.config.schema import (
        EvalConfig,
        EvalFile,
        LeRobotRun,
        LightningRun,
        OtherRun,
        RunConfig,
        require_dataset,
    )
    from hlrp.config.sections import (
        DataSection,
        EnvSection,
        FilterSection,
        IdleFilter,
        LatentsSection,
        MotionFilter,
        SourceSection,
    )
    from hlrp.config.shipped import find_config, shipped_config, shipped_names
    from hlrp.config.trainer_sections import (
        ClassPath,
        LeRobotTrainerSection,
        LightningTrainerSection,
        TrainerSection,
        steps_for_epochs,
    )

__all__ = [
    "ClassPath",
    "DataSection",
    "EnvSection",
    "EvalConfig",
    "EvalFile",
    "FilterSection",
    "FoundationModel",
    "FromConfig",
    "IdleFilter",
    "LaqModel",
    "LatentsSection",
    "LeRobotRun",
    "LeRobotTrainerSection",
    "LightningRun",
    "LightningTrainerSection",
    "MotionFilter",
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
    "refuse_unused_by_other",
    "require_dataset",
    "resolve_class_path",
    "resolve_policy_aliases",
    "shipped_config",
    "shipped_names",
    "steps_for_epochs",
    "to_yaml",
]

__getattr__ = lazy_names(
    __name__,
    {
        "base": ["parse_episodes"],
        "class_path": ["allow_import", "resolve_class_path"],
        "from_config": ["FromConfig"],
        "loading": ["Resolved", "is_eval_file", "load_config", "load_eval_config", "to_yaml"],
        "models": ["FoundationModel", "LaqModel", "PolicyModel", "resolve_policy_aliases"],
        "obeyed": ["refuse_unused", "refuse_unused_by_other"],
        "schema": ["EvalConfig", "EvalFile", "LeRobotRun", "LightningRun", "OtherRun", "RunConfig", "require_dataset"],
        "sections": [
            "DataSection",
            "EnvSection",
            "FilterSection",
            "IdleFilter",
            "LatentsSection",
            "MotionFilter",
            "SourceSection",
        ],
        "shipped": ["find_config", "shipped_config", "shipped_names"],
        "trainer_sections": [
            "ClassPath",
            "LeRobotTrainerSection",
            "LightningTrainerSection",
            "TrainerSection",
            "steps_for_epochs",
        ],
    },
)
