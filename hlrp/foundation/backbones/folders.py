"""Where the files of a backbone are: a folder, the local Hugging Face cache, or a tiny one made here."""

import atexit
import json
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from hlrp.catalog import cache_folder
from hlrp.errors import UserError
from hlrp.files import new_folder, unfinished_path
from hlrp.foundation.backbones.loading import quiet_transformers, require_transformers
from hlrp.foundation.backends.registry import BACKENDS, backend_class, check_backend
from hlrp.runs import safetensors_problem

TINY = "tiny"

# Names the files that the writers below make: another version makes other bytes.
_TINY_VERSION = 1
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FLAG = "--backbone / model.backbone"
# Weights as safetensors only; repositories also hold the same in other formats, many times as large.
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def resolve_backbone(name: str, backend: str, *, allow_download: bool) -> Path:
    """The folder of a backbone's files.

    Args:
        name: `tiny`: small random weights, made once and kept in this tool's cache folder. A folder: itself. Anything
            else: a model's name on the Hugging Face Hub, looked up in the local cache.
        backend: Backend that will use it; by its name in the registry.
        allow_download: Fetch a named model that is not in the local cache.

    Raises:
        UserError: There is no such backbone on this machine, it is incomplete, or it is of another kind than the
            backend needs.
    """
    check_backend(backend)
    if name == TINY:
        return _cached_tiny(backend)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not _HUB_NAME.fullmatch(name) or name.startswith("."):
            raise UserError(
                f"there is no folder {name}",
                where=_FLAG,
                fix="give a folder with config.json and model.safetensors, a model's name, or tiny",
            )
        folder = _from_hub(name, allow_download)
    check_backbone(folder, backend)
    return folder


def check_backbone(folder: Path, backend: str) -> None:
    """Check that a folder holds a whole model of the kind that a backend needs; weights are not read.

    Raises:
        UserError: It does not; both sides are named.
    """
    config = _read_json(folder / "config.json")
    wanted, found = backend_class(backend).model_type, config.get("model_type")
    if found != wanted:
        raise UserError(
            f"{folder} holds a model of type {found!r}, backend {backend} needs {wanted!r}",
            where=_FLAG,
            fix=next(
                (f"use --backend {k}" for k in BACKENDS if backend_class(k).model_type == found), "use another backbone"
            ),
        )
    if problem := _weights_problem(folder):
        raise UserError(
            f"the backbone {folder} is not whole: {problem}",
            where=_FLAG,
            fix="copy the model again, with its weights as safetensors, or give --allow-download",
        )


def make_tiny_backbone(folder: Path, backend: str, *, seed: int = 0) -> None:
    """Write a small random backbone: the architecture, file layout and loading code of a pretrained one, no network.

    The folder appears whole or not at all. The same seed gives the same bytes with the same versions of transformers
    and torch. PyTorch's global random state is left as it was.

    Args:
        folder: Where to; must not exist yet, or be empty.
        backend: Backend that will use it; by its name in the registry.
        seed: Of the random weights.

    Raises:
        UserError: Something is in the folder already, or the backend is unknown.
    """
    check_backend(backend)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty", where="DIR", fix="give a new folder")
    _make(folder, backend, seed)


def _make(folder: Path, backend: str, seed: int) -> None:
    require_transformers()
    import torch

    # Several processes may make it at once: each has a place of its own, and the first one to be done wins.
    with new_folder(folder, temporary=unfinished_path(folder, uuid.uuid4().hex)) as temporary:
        temporary.mkdir()
        with quiet_transformers(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            backend_class(backend).write_tiny_backbone(temporary, seed)
        _forget_versions(temporary)


def _forget_versions(folder: Path) -> None:
    """Another release of transformers makes the same model: its files must not look like another backbone's."""
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf8"))
        if isinstance(content, dict) and content.pop("transformers_version", None):
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf8")


def _cached_tiny(backend: str) -> Path:
    folder = cache_folder() / "backbones" / f"{backend}-{TINY}-v{_TINY_VERSION}"
    if folder.is_dir():
        try:
            check_backbone(folder, backend)
            return folder
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
    try:
        _make(folder, backend, seed=0)
    except OSError:
        # Another process was first (a folder that is not empty is not replaced), or nothing can be written there.
        if not folder.is_dir():
            folder = Path(tempfile.mkdtemp(prefix="hlrp-backbone-")) / TINY
            atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
            _make(folder, backend, seed=0)
    check_backbone(folder, backend)
    return folder


def _from_hub(name: str, allow_download: bool) -> Path:
    require_transformers()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if not allow_download or _weights_problem(folder) is None:
            return folder
    except HFValidationError as error:
        raise UserError(f"{name!r} is no folder and no model's name", where=_FLAG) from error
    except LocalEntryNotFoundError as error:
        if not allow_download:
            raise UserError(
                f"the backbone {name!r} is neither a folder nor in the local Hugging Face cache",
                where=_FLAG,
                fix="give --allow-download to fetch it, a folder that holds it, or tiny, which needs no network",
            ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"the backbone {name!r} cannot be fetched: {' '.join(str(error).split())}",
            where=_FLAG,
            fix="check the name, the network and HF_HUB_OFFLINE, or give a folder that holds the model",
        ) from error


def _weights_problem(folder: Path) -> str | None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return safetensors_problem(folder / "model.safetensors")
    try:
        shards = sorted(set(_read_json(index)["weight_map"].values()))
    except (KeyError, AttributeError):
        return f"{index.name} names no files"
    return next((p for shard in shards if (p := safetensors_problem(folder / shard))), None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path.name} cannot be read: {error}", where=str(path.parent), fix="give the folder of a model"
        ) from error
    return content if isinstance(content, dict) else {}
