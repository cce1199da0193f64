"""The runs in a folder."""

from collections.abc import Callable
from pathlib import Path

from hlrp.errors import UserError
from hlrp.runs.directory import RunDirectory
from hlrp.runs.manifest import MANIFEST

SET_ASIDE = ".no-checkpoint-"
"""In the name of a folder, before a number: it holds what died before its first checkpoint and was begun anew."""


def list_runs(root: Path, on_problem: Callable[[UserError], None] | None = None) -> list[RunDirectory]:
    """Every run below ``root``, oldest first; what cannot be read is left out, and what died and was begun anew.

    Args:
        root: Folder to search.
        on_problem: Told of every manifest that cannot be read, or is not one.
    """
    runs = []
    for manifest in root.rglob(MANIFEST) if root.is_dir() else ():
        if SET_ASIDE in manifest.parent.name:
            continue
        try:
            runs.append(RunDirectory.open(manifest.parent))
        except UserError as problem:
            if on_problem is not None:
                on_problem(problem)
    return sorted(runs, key=lambda r: r.manifest.started)
