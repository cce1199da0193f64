"""`run.json`: what a run says of itself, read so that a damaged one is one message."""

import json
from pathlib import Path
from typing import Any

from hlrp.errors import UserError

SCHEMA_VERSION = 1
MANIFEST = "run.json"

# What the manifest's fields are, where commands rely on it; every one may be missing.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "status": str,
    "started": str,
    "ended": str,
    "trainer": str,
    "policy": str,
    "steps": int,
    "dataset": dict,
    "final_metrics": dict,
    "versions": dict,
    "checkpoints": list,
    "warnings": list,
    "resumed": list,
    "reason": str,
}


def read_manifest(path: Path) -> dict[str, Any]:
    """Content of a `run.json`.

    Raises:
        FileNotFoundError: There is none.
        UserError: It is damaged, something else, or of a newer release.
    """
    manifest: Any = None
    try:
        manifest = json.loads(path.read_text(encoding="utf8"))
        problem = None if isinstance(manifest, dict) else "it is not an object"
    except FileNotFoundError:
        raise
    except OSError as error:
        problem = error.strerror or str(error)
    except (ValueError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        wrong = [k for k, kind in _KINDS.items() if manifest.get(k) is not None and not isinstance(manifest[k], kind)]
        problem = f"{wrong[0]!r} is {json.dumps(manifest[wrong[0]])[:60]}" if wrong else None
    if problem is not None:
        raise UserError(
            f"{MANIFEST} cannot be read: {problem}", where=str(path), fix="restore the file, or take the folder away"
        )
    if (manifest.get("schema_version") or 0) > SCHEMA_VERSION:
        raise UserError("this run was written by a newer hlrp", where=str(path), fix="upgrade hlrp")
    # A field that is null says as little as one that is missing.
    return {key: value for key, value in manifest.items() if value is not None or key not in _KINDS}
