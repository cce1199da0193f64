"""What `hlrp push` published, by its name on the Hub: where a folder is taken, `USER/NAME@REVISION` is too."""

import os
import re
from pathlib import Path

from hlrp.errors import UserError
from hlrp.hub_names import HUB_NAME
from hlrp.runtime.manifest import ENCODE, STEP, WHOLE

_GRAPHS = ("*.onnx", "*.onnx.data", "*.xml", *(f"{role}.bin" for role in (WHOLE, ENCODE, STEP)))
FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.yaml", "*.md", *_GRAPHS)
"""What is fetched of a repository: nothing that could run code when it is read; of exports, ONNX and OpenVINO."""

_REVISION = re.compile(rf"(?P<name>{HUB_NAME})(?:@(?P<revision>[\w][\w./-]*))?")


def folder_of(given: Path, where: str, *, allow_download: bool) -> Path:
    """The folder that a user means: itself, or, where there is none, what is on the Hub by that name.

    Args:
        given: A folder; or `USER/NAME`, where wanted with `@` and a branch, a tag or a commit.
        where: The flag or key that names it.
        allow_download: Ask the Hub, and fetch what is not here; else only the local cache is looked into.

    Returns:
        The folder; anything that is neither a folder nor a name as it is, for its reader to refuse.

    Raises:
        UserError: Neither a folder nor, as far as may be looked, on the Hub has this name.
    """
    found = _REVISION.fullmatch(given.as_posix())
    if found is None or os.path.lexists(given):
        return given
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                found["name"],
                revision=found["revision"],
                allow_patterns=list(FETCHED),
                local_files_only=not allow_download,
            )
        )
    except (LocalEntryNotFoundError, HFValidationError) as error:
        if not allow_download:
            raise UserError(
                f"{given} does not exist, and nothing of that name on the Hub was fetched before",
                where=where,
                fix="check the path, or give --allow-download to fetch it from the Hub",
            ) from error
        raise _not_fetched(given, where, error) from error
    except (HfHubHTTPError, OSError) as error:
        raise _not_fetched(given, where, error) from error


def _not_fetched(given: Path, where: str, error: Exception) -> UserError:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = given.as_posix().partition("@")
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            f"{name} has no revision {revision!r} on the Hub", where=where, fix="give a branch, a tag or a commit of it"
        )
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"{given} does not exist, and there is no {name} on the Hub, or it is private",
            where=where,
            fix="check the name, or log in with `hf auth login`",
        )
    return UserError(
        f"{given} cannot be fetched: {' '.join(str(error).split())}",
        where=where,
        fix="check the network and HF_HUB_OFFLINE, or give a folder",
    )
