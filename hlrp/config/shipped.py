"""Finding configuration files: by path, or by the name of one that comes with the package."""

from importlib.util import find_spec
from pathlib import Path

from hlrp.config.yaml_source import shown
from hlrp.errors import UserError, suggest


def shipped_root() -> Path:
    """Return the folder of the configurations that come with this package."""
    # A wheel carries them inside `hlrp_cli`; a checkout has them at its root.
    for package, inside in (("hlrp_cli", "configs"), ("hlrp", "../configs")):
        spec = find_spec(package)
        if spec and spec.origin:
            folder = (Path(spec.origin).parent / inside).resolve()
            if folder.is_dir():
                return folder
    raise UserError("the shipped configurations are not installed", fix="install the package again")


def shipped_names() -> list[str]:
    """Return the names of all shipped configurations, such as ``lerobot/act_aloha``."""
    root = shipped_root()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def shipped_config(name: str) -> Path:
    """Return the file of a shipped configuration.

    Raises:
        UserError: There is none by that name.
    """
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    if plain not in shipped_names():
        raise UserError(f"there is no shipped configuration {name!r}", fix=suggest(plain, shipped_names()))
    return shipped_root() / f"{plain}.yaml"


def find_config(name: Path | str) -> Path:
    """Find the file that ``-c`` names: a path, or the name of a shipped configuration.

    Raises:
        UserError: Neither exists.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    try:
        return shipped_config(Path(name).as_posix())
    except UserError:
        if path.exists():
            # A folder or the like: reading it says what is wrong.
            return path
        near = [shown(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(
            f"there is no configuration file {str(name)!r}",
            where=f"-c {name}",
            fix=suggest(str(name), [*near, *shipped_names()]),
        ) from None


def find_default(name: str, folder: Path) -> Path:
    """Find a file that a ``defaults:`` list in ``folder`` names.

    Raises:
        UserError: There is none beside that file nor among the shipped ones.
    """
    for candidate in (folder / name, folder / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    try:
        return shipped_config(name)
    except UserError:
        near = [p.name for p in folder.glob("*.y*ml")]
        raise UserError(
            f"'defaults' names {name!r}, which does not exist", fix=suggest(name, [*near, *shipped_names()])
        ) from None
