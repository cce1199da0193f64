"""`hlrp fit-actions`: learn from a few labelled episodes what the latents of all videos mean as actions."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.errors import UserError
from hlrp.runs.published import folder_of
from hlrp_cli.flags import ToleranceS, episodes_of

if TYPE_CHECKING:
    from hlrp.data import DatasetInfo
    from hlrp.latents import LatentTable
    from hlrp.latents.decoder_manifest import DecoderManifest


def fit_actions(
    dataset_root: Annotated[Path, typer.Option(help="Folder of the dataset.")],
    laq: Annotated[Path | None, typer.Option(help="Run of a quantizer: its latents are made and kept.")] = None,
    latents: Annotated[Path | None, typer.Option(help="Table of latents that were made with --vectors.")] = None,
    episodes: Annotated[str | None, typer.Option(help="Labelled episodes, whose actions may be read: 0,7-9.")] = None,
    kind: Annotated[
        Literal["ridge", "ensemble"], typer.Option(help="Ridge regression, or five small perceptrons.")
    ] = "ridge",
    inputs: Annotated[
        Literal["both", "vectors", "codes"], typer.Option(help="Read continuous latents, codes, or both.")
    ] = "both",
    camera: Annotated[
        str | None, typer.Option(help="With --laq: camera; the one it was trained on if left out.")
    ] = None,
    action_form: Annotated[
        Literal["auto", "direct", "state-difference"],
        typer.Option(help="Predict actions, or positions as differences to the state; auto: as the data are."),
    ] = "auto",
    horizon: Annotated[
        int, typer.Option(min=1, help="Actions to predict from a step on; above 1 out of the window at it alone.")
    ] = 1,
    floor: Annotated[
        float | None, typer.Option(help="Held-out R2 below which a dimension is not trusted [default: 0.5].")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="With --kind ensemble: of the perceptrons [default: 0].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="With --laq or --kind ensemble: cpu, cuda, cuda:N or mps.")] = None,
    tolerance_s: ToleranceS = TOLERANCE_S,
    output: Annotated[Path | None, typer.Option(help="New folder of the decoder.")] = None,
    suggest: Annotated[
        int | None, typer.Option(min=1, help="Fit nothing: name so many episodes whose labels would help most.")
    ] = None,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit the map from latents to actions on a few labelled episodes, and score it on those held out.

    With --suggest: say which episodes to label, from the latents alone.
    """
    labelled = _check(laq, latents, episodes, output, suggest, floor)
    if kind == "ridge":
        _refuse_idle(seed, device if laq is None else None, suggest)
    laq = laq and folder_of(laq, "--laq", allow_download=allow_download)
    latents = latents and folder_of(latents, "--latents", allow_download=allow_download)
    from hlrp.data import read_dataset
    from hlrp.data.dataset_info import check_episodes
    from hlrp.devices import choose_device

    chosen = choose_device(device, per_process=True)
    info = read_dataset(None, dataset_root, where="--dataset-root", tolerance_s=tolerance_s)
    check_episodes(info, labelled)
    table = _table(laq, latents, info, camera, chosen)
    if suggest is not None:
        _suggest(table, info, suggest, labelled, inputs, json_output)
        return
    assert output is not None, "checked above"
    options: dict[str, Any] = {"estimator": kind, "inputs": inputs, "horizon": horizon, "seed": seed or 0}
    options |= {"device": chosen, "action_form": action_form.replace("-", "_")}
    options |= {} if floor is None else {"floor": floor}
    _fit(table, info, labelled, output, json_output, options)


def _check(
    laq: Path | None,
    latents: Path | None,
    episodes: str | None,
    output: Path | None,
    suggest: int | None,
    floor: float | None,
) -> list[int]:
    """Check what can be known before any work; gives the labelled episodes."""
    from hlrp.latents.decoder_manifest import check_output
    from hlrp.runs.directory import check_writable

    if laq is None and latents is None:
        raise UserError(
            "nothing says where the latents are from", where="--laq", fix="give --laq RUN or --latents TABLE"
        )
    if floor is not None and not -math.inf < floor <= 1:
        raise UserError(f"an R2 of {floor:g} cannot be asked for", where="--floor", fix="give a number of at most 1")
    labelled = episodes_of(episodes) or []
    if suggest is not None:
        return labelled
    if not labelled:
        raise UserError(
            "no episode is labelled",
            where="--episodes",
            fix="name episodes whose actions may be read; --suggest N says which would help most",
        )
    if output is None:
        raise UserError("nothing says where the decoder is to go", where="--output", fix="give a new folder")
    check_output(output)
    check_writable(output)
    return labelled


def _refuse_idle(seed: int | None, device: str | None, suggest: int | None) -> None:
    """Refuse flags that have no effect where nothing but a ridge regression is fitted, or nothing at all."""
    for flag, value in (("--seed", seed), ("--device", device)):
        if value is None:
            continue
        # A suggestion out of a table takes no network at all.
        needed = "--kind ensemble" if suggest is None else "--laq"
        raise UserError(f"{flag} has no effect without {needed}", where=flag, fix=f"add {needed}, or leave it out")


def _table(
    laq: Path | None, latents: Path | None, info: "DatasetInfo", camera: str | None, device: str
) -> "LatentTable":
    if laq is not None:
        from hlrp_cli.latent_tables import vectors_of

        return vectors_of(laq, info, camera, device)
    from hlrp.latents import LatentTable

    assert latents is not None, "one of them is given"
    return LatentTable.open(latents)


def _fit(
    table: "LatentTable",
    info: "DatasetInfo",
    labelled: list[int],
    output: Path,
    json_output: bool,
    options: dict[str, Any],
) -> None:
    from hlrp.latents.actions import fit_actions as fit

    decoder = fit(table, info, labelled, **options)
    decoder.save(output)
    _show(decoder.manifest, output, json_output)


def _suggest(
    table: "LatentTable",
    info: "DatasetInfo",
    count: int,
    labelled: list[int],
    inputs: Literal["both", "vectors", "codes"],
    json_output: bool,
) -> None:
    from hlrp.latents.suggestion import suggest_episodes

    found = suggest_episodes(table, info, count, labelled=labelled, inputs=inputs)
    chosen = [s.episode for s in found]
    if json_output:
        typer.echo(json.dumps({"episodes": chosen, "labelled": labelled, "suggestions": [s._asdict() for s in found]}))
        return
    for s in found:
        typer.echo(f"episode {s.episode:<6} distance left {s.distance:.2f}  {s.task}")
    typer.echo(f"once they are labelled: --episodes {','.join(map(str, sorted([*labelled, *chosen])))}")


def _show(manifest: "DecoderManifest", output: Path, json_output: bool) -> None:
    if json_output:
        typer.echo(json.dumps({"output": str(output), "r2": manifest.r2, **manifest.model_dump()}))
        return
    from rich.table import Table

    from hlrp_cli.console import console

    out = console(result=True)
    left_out = {"episodes": "an episode", "blocks": "a tenth of each episode", "both": "an episode or a tenth of one"}
    table = Table(
        "action",
        "R2",
        "spread",
        "no motion",
        "replay",
        "note",
        title=f"held-out R2, {left_out[manifest.held_out]} left out at a time",
    )
    tasks = sorted({task for d in manifest.dimensions for task in d.by_task})
    for d in manifest.dimensions:
        note = "constant" if d.kind == "constant" else "below the floor" if d in manifest.below_floor else ""
        note += f"{len(d.values or ())} values, {d.accuracy:.0%} right" if d.accuracy is not None else ""
        name = d.name if d.state is None else f"{d.name} - state"
        table.add_row(name, _number(d.r2), _number(d.spread), _number(d.no_motion), _number(d.replay), note)
    table.add_row("mean", _number(manifest.r2), "", "", "", "", end_section=True)
    if len(tasks) > 1:
        for task in tasks:
            scores = [d.by_task[task] for d in manifest.dimensions if d.by_task.get(task) is not None]
            table.add_row(task, _number(sum(s for s in scores if s is not None) / len(scores) if scores else None))
    out.print(table)
    if manifest.held_out != "episodes":
        out.print("one labelled episode of a task says little of its others: label a second, and the scores say more")
    if manifest.below_floor:
        names = ", ".join(d.name for d in manifest.below_floor)
        out.print(f"not to be trusted, below a held-out R2 of {manifest.floor:g}: {names}", markup=False)
    out.print(f"decoder {output}", markup=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
