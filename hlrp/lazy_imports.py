"""Packages that import their public names when these are first used, so that importing the package costs nothing."""

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package, for the names that are imported under its `if TYPE_CHECKING:`.

    What type checkers read is the only list of where a name lives (scientific Python's `lazy_loader` reads stubs).

    Args:
        package: The package's `__name__`.
    """

    @cache
    def module_of() -> dict[str, str]:
        source = ast.parse(Path(str(sys.modules[package].__file__)).read_text(encoding="utf8"))
        checked = next(node for node in source.body if isinstance(node, ast.If))
        imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
        return {alias.name: str(node.module) for node in imports for alias in node.names}

    def import_name(name: str) -> Any:
        if name not in module_of():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module_of()[name]), name)

    return import_name
