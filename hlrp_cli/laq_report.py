"""`hlrp laq-report`: measure a latent action quantizer on held-out episodes, and say whether its codes are worth it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hlrp.errors import UserError
from hlrp.runs.published import folder_of


def laq_report(
    run: Annotated[Path, typer.Argument(help="Run of a quantizer, its checkpoint, or the folder of its weights.")],
    dataset_root: Annotated[
        list[Path] | None, typer.Option(help="Folder of a dataset, repeatable; the run's own if not given.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the card; RUN/laq-report if not given.")] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Camera, repeatable; those it was trained on if not given.")
    ] = None,
    tolerance_s: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Most seconds between a frame's time in table and video; the run's if not given."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows to measure per source.")] = 2048,
    batch_size: Annotated[int, typer.Option(min=2, help="Windows at a time.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")] = 0,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Write the quality card of a latent action quantizer: report.json and report.html."""
    from hlrp.devices import choose_device
    from hlrp.laq.checkpoint import find_model
    from hlrp.runs.directory import check_writable
    from hlrp_cli.console import console

    found = folder_of(run, "RUN", allow_download=allow_download)
    if found != run and output is None:
        raise UserError("a card of what is on the Hub needs a folder", where="--output", fix="give a new folder")
    run = found
    find_model(run)
    folder = output if output is not None else run / "laq-report"
    check_writable(folder)
    chosen = choose_device(device, per_process=True)
    from hlrp.laq.card.report import make_report

    report = make_report(
        run,
        dataset_root or [],
        cameras=camera or [],
        tolerance_s=tolerance_s,
        device=chosen,
        batch_size=batch_size,
        max_windows=windows,
        seed=seed,
        announce=lambda text: console().print(text, markup=False),
    )
    data, page = report.write(folder)
    if json_output:
        typer.echo(json.dumps(report.to_json()))
        return
    words = {True: "passed", False: "not passed", None: "not decided"}
    for source in report.sources:
        typer.echo(source.held_out.name)
        for check in source.checks:
            typer.echo(f"  {words[check.passed]:<12}{check.text}")
    typer.echo(f"gate        {words[report.passed]}")
    typer.echo(f"numbers     {data}")
    typer.echo(f"page        {page}")
