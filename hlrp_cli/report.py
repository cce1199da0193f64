"""`hlrp report`: one page of a run: what it is, where it came from, its curves, scores, evaluations and videos."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path, typer.Argument(help="Run, checkpoint, evaluation, latent table, action decoder, or a folder of runs.")
    ],
    against: Annotated[list[Path] | None, typer.Option(help="Run or evaluation to put beside it; repeatable.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="File; RUN/report.html if not given, of a folder of runs index.html.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Write the page of a run as one HTML file; of a folder of runs an index, and the page of each."""
    from hlrp.report.page import make_page

    def announce(text: str) -> None:
        typer.echo(text, err=True)

    page = make_page(run, against=against or [], output=output, announce=announce)
    typer.echo(f"page        {page}")
    if open_page and not webbrowser.open(page.absolute().as_uri()):
        announce("warning: there is no browser here; open the file elsewhere")
