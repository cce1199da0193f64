"""Publishing on the Hub: the files of a model and a card made from its run, as one commit; safe to repeat."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrp.deploy.card import make_card
from hlrp.deploy.contents import EXPORT, POLICY, Contents, PublishedFile, read_contents
from hlrp.errors import UserError, root_cause
from hlrp.evaluation.plan import find_run
from hlrp.hub_names import HUB_NAME

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
# Of earlier pushes; anything else in a repository is its owner's.
_OURS = re.compile(r"(backbone/.+|[^/]+\.(safetensors|json|jinja)|(whole|encode|step)\.(onnx|onnx\.data|xml|bin))")


@dataclass(frozen=True)
class Publication:
    """What is to be on the Hub.

    Args:
        repo_id: `USER/NAME`.
        contents: What of, and what is left out.
        files: All files, the card among them.
        card: The card's text.
        private: Whether a repository that is made for it is private.
    """

    repo_id: str
    contents: Contents
    files: list[PublishedFile]
    card: str
    private: bool


@dataclass(frozen=True)
class Pushed:
    """What came of a push.

    Args:
        url: Page of the repository.
        commit: Whole name of the commit that holds the files.
        new: False: everything was there already, and nothing was written.
        removed: Files of an earlier push that are gone.
    """

    url: str
    commit: str
    new: bool
    removed: list[str]


def check_repo(repo_id: str, where: str = "REPO") -> None:
    """Check the name of a repository; nobody is asked.

    Raises:
        UserError: It is none, or this process may not reach the Hub.
    """
    if not re.fullmatch(HUB_NAME, repo_id):
        raise UserError(f"{repo_id!r} is no name on the Hub", where=where, fix="write USER/NAME, such as me/my-policy")
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(
            "nothing can be published: HF_HUB_OFFLINE keeps this machine off the Hub",
            where=where,
            fix="unset HF_HUB_OFFLINE",
        )


def plan_push(path: Path, repo_id: str, *, private: bool = False, licence: str | None = None) -> Publication:
    """Decide what would be on the Hub; reads files alone, and writes none.

    Args:
        path: A run, a checkpoint, or the folder of a model, an action decoder, a latent table or an export.
        repo_id: Where to, as `USER/NAME`.
        private: Make the repository private, if it has to be made; a policy's own `private` does the same.
        licence: Its identifier on the Hub, such as `apache-2.0`; None: the policy's own `license`, else none.

    Raises:
        UserError: There is nothing that can be published, or a file names a folder of this machine.
    """
    contents = read_contents(path, list(_roots(path)))
    config = contents.json("config.json") if contents.kind in (POLICY, EXPORT) else {}
    licence = (licence or config.get("license") or "").lower() or None
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(f"{licence!r} is no licence", where="--licence", fix="give its identifier, such as apache-2.0")
    card = make_card(contents, repo_id, licence)
    files = [*contents.files, PublishedFile(CARD, None, card.encode())]
    return Publication(repo_id, contents, files, card, private or bool(config.get("private")))


def _roots(path: Path) -> Iterator[Path]:
    """Folders of the datasets of the run that ``path`` is, or lies in."""
    run = find_run(path.absolute() / "x")
    recorded = [run.manifest.dataset, *run.manifest.dataset.sources] if run is not None else []
    return (Path(d.root) for d in recorded if d.root)


def push(publication: Publication) -> Pushed:
    """Upload it as one commit, into a repository that is made if need be. Who may, huggingface_hub's login says.

    Files that an earlier push left and that are no part of it any more are removed in the same commit.

    Raises:
        UserError: Not logged in, no right to, or the Hub cannot be reached; nothing is half there.
    """
    check_repo(publication.repo_id)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="hlrp")
    repo_id = publication.repo_id
    with _one_message(repo_id), _quiet_client():
        before = _repository(api, publication)
        there = {file.rfilename for file in before.siblings or ()}
        names = {file.name for file in publication.files}
        removed = sorted(name for name in there - names if _OURS.fullmatch(name))
        operations: list[Any] = [CommitOperationDelete(name) for name in removed]
        operations += [
            CommitOperationAdd(file.name, str(file.source) if file.content is None else file.content)
            for file in publication.files
        ]
        kind = publication.contents.kind.partition(" ")[2]
        done = api.create_commit(repo_id, operations, commit_message=f"Upload {kind} with hlrp")
    return Pushed(f"{api.endpoint}/{repo_id}", done.oid, done.oid != before.sha, removed)


def _repository(api: "HfApi", publication: Publication) -> Any:
    """What the Hub says of the repository, made if it was not there."""
    repo_id = publication.repo_id
    api.create_repo(repo_id, private=publication.private or None, exist_ok=True)
    found = api.model_info(repo_id)
    if publication.private and not found.private:
        raise UserError(
            f"{repo_id} is there already, and public",
            where="--private",
            fix="make it private in its settings first, choose another name, or leave --private out",
        )
    return found


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Inside, the Hub's client says nothing: what is to be known is said by who calls."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _one_message(repo_id: str) -> Iterator[None]:
    """Inside, whatever keeps an upload from being done is a UserError."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    again = "nothing is lost and nothing half there: "
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UserError(
            f"{repo_id} cannot be written: nobody is logged in", where="REPO", fix="hf auth login"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"{repo_id} cannot be written by who is logged in, if anybody is",
                where="REPO",
                fix="check the name, and log in with `hf auth login`, with a token that may write",
            ) from error
        raise UserError(
            f"the Hub refused the upload to {repo_id} ({status}): {error.server_message or root_cause(error)}",
            where="REPO",
            fix=f"{again}run the same command again later",
        ) from error
    except (OSError, httpx.HTTPError, RuntimeError, ValueError) as error:
        if "Invalid metadata" not in str(error):
            raise UserError(
                f"{repo_id} was not uploaded: {root_cause(error) or type(error).__name__}",
                where="REPO",
                fix=f"{again}check the network, and run the same command again",
            ) from error
        raise UserError(
            f"the Hub does not take the model card: {' '.join(str(error).split())}",
            where="--licence, tags of the policy",
            fix="give names that the Hub knows: https://huggingface.co/docs/hub/repositories-licenses",
        ) from error


def check_login(repo_id: str) -> None:
    """Ask the Hub who is logged in, before work is done that is to be published.

    Raises:
        UserError: Nobody, or it cannot be reached.
    """
    check_repo(repo_id, "push_to_hub / --push-to-hub")
    from huggingface_hub import HfApi

    with _one_message(repo_id):
        HfApi(library_name="hlrp").whoami()
