"""Where a long command writes: refused before any work where it cannot, and continued only as it was begun."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hlrp.errors import HlrpError, UserError, WorkError
from hlrp.files import write_json

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_new_output(output: Path) -> None:
    """Refuse a folder of `--output` that is there already, or cannot be made.

    Raises:
        UserError: It exists, a file is in the way of its parents, or nothing may be written there.
    """
    if output.exists() or output.is_symlink():
        raise UserError("the output exists already", where=str(output), fix="choose another --output, or delete it")
    # What is missing of them is made.
    parent = next(folder for folder in output.absolute().parents if folder.exists() or folder.is_symlink())
    if not parent.is_dir():
        raise UserError("this is no folder", where=str(parent), fix="choose another --output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError("no right to write here", where=str(parent), fix="choose another --output")


def changed_settings(path: Path, settings: Mapping[str, Any], what: str) -> dict[str, tuple[Any, Any]]:
    """Keep what a piece of work was begun with, or compare what is kept.

    Args:
        path: JSON file in the folder of the unfinished work; written if it is not there.
        settings: What is asked for now.
        what: The work, for people.

    Returns:
        By name what was kept and what is asked for, where these differ; None stands for nothing.

    Raises:
        UserError: What is kept cannot be read.
    """
    if not path.exists():
        write_json(path, settings)
        return {}
    try:
        before = json.loads(path.read_text(encoding="utf8"))
        if not isinstance(before, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"the settings of an unfinished {what} cannot be read",
            where=str(path),
            fix=f"delete {path.parent}, and begin again",
        ) from error
    # As JSON writes them, so that a tuple equals the list it becomes.
    now = json.loads(json.dumps(settings))
    return {key: (before.get(key), now.get(key)) for key in sorted({*before, *now}) if before.get(key) != now.get(key)}


def disk_error(error: OSError, output: Path) -> HlrpError:
    """An error of the file system as what a user can do about it.

    Args:
        error: The error.
        output: What was written, where the error names no file.
    """
    where = str(error.filename or output)
    if error.errno in FULL_DISK:
        fix = "free some space; the same command continues with the episodes that are finished"
        return UserError("no space left on the device", where=where, fix=fix)
    if error.errno in _NO_RIGHT:
        fix = "correct the rights, or choose another --output"
        return UserError("no right to read or write here", where=where, fix=fix)
    return WorkError(f"{error.strerror or error}: {where}")
