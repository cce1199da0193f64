"""Run directories: what a run was asked, what it did, and what it left to evaluate, resume or deploy."""

from typing import TYPE_CHECKING

from hlrp.lazy import lazy_names

if TYPE_CHECKING:
    from hlrp.runs.checkpoints import (
        Checkpoint,
        checkpoint_step,
        list_checkpoints,
        resolve_pretrained,
        safetensors_problem,
    )
    from hlrp.runs.directory import RunDirectory, claim_folder, claim_run_path, new_run_path
    from hlrp.runs.listing import list_runs
    from hlrp.runs.manifest import DatasetRecord, ResumeRecord, RunManifest

__all__ = [
    "Checkpoint",
    "DatasetRecord",
    "ResumeRecord",
    "RunDirectory",
    "RunManifest",
    "checkpoint_step",
    "claim_folder",
    "claim_run_path",
    "list_checkpoints",
    "list_runs",
    "new_run_path",
    "resolve_pretrained",
    "safetensors_problem",
]

# pydantic, which the manifest is made of, would be felt in every `--help`.
__getattr__ = lazy_names(
    __name__,
    {
        "checkpoints": [
            "Checkpoint",
            "checkpoint_step",
            "list_checkpoints",
            "resolve_pretrained",
            "safetensors_problem",
        ],
        "directory": ["RunDirectory", "claim_folder", "claim_run_path", "new_run_path"],
        "listing": ["list_runs"],
        "manifest": ["DatasetRecord", "ResumeRecord", "RunManifest"],
    },
)
