"""Run directories: what a run was asked, what it did, and what it left to evaluate, resume or deploy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlrp.runs.checkpoints import (
        Checkpoint,
        checkpoint_step,
        list_checkpoints,
        resolve_pretrained,
        safetensors_problem,
    )
    from hlrp.runs.directory import RunDirectory, claim_folder, claim_run_path, list_runs, new_run_path
    from hlrp.runs.manifest import DatasetRecord, ResumeRecord, RunManifest

# pydantic, which the manifest is made of, would be felt in every `--help`.
_LAZY = {
    "Checkpoint": "checkpoints",
    "DatasetRecord": "manifest",
    "ResumeRecord": "manifest",
    "RunDirectory": "directory",
    "RunManifest": "manifest",
    "checkpoint_step": "checkpoints",
    "claim_folder": "directory",
    "claim_run_path": "directory",
    "list_checkpoints": "checkpoints",
    "list_runs": "directory",
    "new_run_path": "directory",
    "resolve_pretrained": "checkpoints",
    "safetensors_problem": "checkpoints",
}

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


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hlrp.runs.{_LAZY[name]}"), name)
