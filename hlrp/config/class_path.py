"""Importing the class that a `class_path` names, if its package is allowed."""

import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from hlrp.errors import UserError, suggest

ALLOWED_PACKAGES = ("hlrp", "trainers", "lerobot_policy_felix_bundle", "lerobot", "lightning")
"""Packages that a configuration may name classes of without being asked."""

_given: list[str] = []


def allow_import(prefixes: Sequence[str]) -> None:
    """Let configurations name classes below ``prefixes`` too, in this process; modules of this folder are then found.

    A file cannot say so itself: whoever runs it decides what it may import.

    Raises:
        UserError: A prefix is no dotted name.
    """
    for prefix in prefixes:
        if not all(part.isidentifier() for part in prefix.split(".")):
            raise UserError(
                f"{prefix!r} is no name of a package or module", where="--allow-import", fix="write package.module"
            )
    if prefixes and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    _given.extend(prefixes)


def resolve_class_path(path: str, allow: Sequence[str] = ()) -> type:
    """Import the class that a configuration names.

    Nothing is imported unless the path lies in this project, LeRobot, Lightning or a prefix of ``allow``; the class
    itself must be defined there too, so a name that such a module merely imported does not count.

    Args:
        path: Dotted name, such as ``lightning.pytorch.callbacks.ModelCheckpoint``.
        allow: Further packages or modules, as given by ``--allow-import``.

    Raises:
        UserError: The path is outside what is allowed, does not exist, or is no class.
    """
    allow = (*allow, *_given)
    module_name, _, class_name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"class_path {path!r} is no dotted name of a class", fix="write package.module.ClassName")
    if not _allowed(path, allow):
        raise UserError(
            f"class_path {path!r} lies outside {', '.join((*ALLOWED_PACKAGES, *allow))}",
            fix=f"if you trust that code, add --allow-import {path.partition('.')[0]}",
        )
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"class_path {path!r}: there is no module {error.name!r}", fix="check the spelling") from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise UserError(
            f"class_path {path!r}: {module_name} has no class {class_name!r}", fix=suggest(class_name, classes)
        )
    if not _allowed(f"{found.__module__}.{found.__qualname__}", allow):
        raise UserError(
            f"class_path {path!r} leads to {found.__module__}.{found.__qualname__}, which is not allowed",
            fix=f"if you trust that code, add --allow-import {found.__module__.partition('.')[0]}",
        )
    return found


def _allowed(path: str, allow: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in (*ALLOWED_PACKAGES, *allow))
