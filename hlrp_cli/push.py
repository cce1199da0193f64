"""`hlrp push`: a model on the Hub, with a card made from its run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hlrp_cli.console import console

if TYPE_CHECKING:
    from hlrp.deploy.publish import Publication, Pushed


def push(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Run, checkpoint, or folder of a model, a decoder, a latent table or an export."
        ),
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Name on the Hub: USER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    licence: Annotated[str | None, typer.Option(help="Licence by its name on the Hub, such as apache-2.0.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and card, upload nothing.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Publish a policy, an export, a quantizer, a foundation model, an action decoder or a latent table on the Hub.

    Who is logged in (hf auth login) writes. The same command again uploads what has changed, if anything.
    """
    from hlrp.deploy.publish import check_repo, plan_push
    from hlrp.deploy.publish import push as upload

    if not dry_run:
        check_repo(repo)
    publication = plan_push(run, repo, private=private, licence=licence)
    done = None
    if not json_output:
        _show(publication, card=dry_run)
    if not dry_run:
        _bars_for_people()
        done = upload(publication)
    if json_output:
        typer.echo(json.dumps(_described(publication, done)))
    elif done is not None:
        _show_done(done, publication)


def _bars_for_people() -> None:
    """Have the Hub's client draw its bars where somebody watches."""
    from huggingface_hub.utils import disable_progress_bars

    if not console().is_terminal:
        disable_progress_bars()


def _show(publication: "Publication", *, card: bool) -> None:
    contents = publication.contents
    typer.echo(f"publish   {contents.kind} from {contents.folder}")
    typer.echo(f"to        {publication.repo_id}{' (private)' if publication.private else ''}")
    for file in publication.files:
        made = "  (the model card)" if file.source is None else "  (without folders of this machine)"
        typer.echo(f"file      {file.name}  {_size(file.size)}{'' if file.content is None else made}")
    for name, reason in contents.left_out:
        typer.echo(f"left out  {name}: {reason}")
    if card:
        typer.echo(f"\n{publication.card}", nl=False)


def _show_done(done: "Pushed", publication: "Publication") -> None:
    for name in done.removed:
        typer.echo(f"removed   {name}, of an earlier push")
    typer.echo(f"{'pushed' if done.new else 'unchanged':<9} {done.url} (commit {done.commit[:12]})")
    if publication.contents.kind in ("a policy", "an exported policy"):
        typer.echo(f"next      hlrp eval {publication.repo_id}@{done.commit[:12]} --allow-download")


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _described(publication: "Publication", done: "Pushed | None") -> dict[str, object]:
    return {
        "repo": publication.repo_id,
        "kind": publication.contents.kind,
        "files": {file.name: file.size for file in publication.files},
        "left_out": dict(publication.contents.left_out),
        "card": publication.card,
        "url": None if done is None else done.url,
        "commit": None if done is None else done.commit,
        "new": None if done is None else done.new,
    }
