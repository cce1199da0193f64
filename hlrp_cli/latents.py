"""`hlrp latents`: check latent tables."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.runs.published import folder_of

group = typer.Typer(help="Check latent tables.", no_args_is_help=True)


@group.command()
def verify(
    table: Annotated[Path, typer.Argument(help="Folder of the latent table.")],
    dataset_root: Annotated[Path, typer.Option(help="Folder of the dataset that it labels.")],
    laq: Annotated[Path | None, typer.Option(help="Run of the quantizer: encodes a sample again.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="With --laq: frames to encode again.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of frames.")] = 0,
    tolerance_s: Annotated[
        float,
        typer.Option(min=1e-6, help="With --laq: most seconds between a frame's times in table and video."),
    ] = TOLERANCE_S,
    device: Annotated[str | None, typer.Option(help="With --laq: cpu, cuda, cuda:N or mps.")] = None,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check that a table holds every frame once, unchanged, of this dataset, as the quantizer codes it. 1 if not."""
    from hlrp.latents.verify import verify_table

    chosen, table = "cpu", folder_of(table, "TABLE", allow_download=allow_download)
    if laq is not None:
        laq = folder_of(laq, "--laq", allow_download=allow_download)
        from hlrp.devices import choose_device

        chosen = choose_device(device, per_process=True)
    report = verify_table(table, dataset_root, laq, sample=sample, seed=seed, device=chosen, tolerance_s=tolerance_s)
    if json_output:
        from dataclasses import asdict

        typer.echo(json.dumps({"ok": report.ok, **asdict(report)}))
    else:
        for problem in report.problems:
            typer.echo(f"wrong  {problem}")
        if report.ok:
            sampled = (
                f"{report.sampled} pairs encoded again, {report.different or 0:.2%} of their codes differ"
                if report.sampled
                else "nothing encoded again (--laq RUN does)"
            )
            typer.echo(f"good   {report.rows} frames in {report.shards} shards; {sampled}")
    if not report.ok:
        raise typer.Exit(1)
