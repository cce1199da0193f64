"""`hlrp pseudo-label`: a dataset in which every episode has actions, recorded ones or those of an action decoder."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.errors import UserError
from hlrp.runs.published import folder_of
from hlrp_cli.flags import ToleranceS
from hlrp_cli.launching import is_left_to_job, is_only_checked

if TYPE_CHECKING:
    from hlrp.data import DatasetInfo
    from hlrp.latents import LatentTable
    from hlrp.latents.decoder_manifest import DecoderManifest
    from hlrp.latents.pseudo_labels import PseudoLabelRequest, PseudoLabelResult
    from hlrp.ranks import Ranks


def pseudo_label(
    decoder: Annotated[Path, typer.Option(help="Folder that hlrp fit-actions wrote.")],
    dataset_root: Annotated[Path, typer.Option(help="Folder of the dataset that lacks actions.")],
    output: Annotated[Path, typer.Option(help="Folder of the new dataset; its videos are links.")],
    latents: Annotated[Path | None, typer.Option(help="Latent table of the dataset.")] = None,
    laq: Annotated[
        Path | None, typer.Option(help="Or the run of the quantizer: the latents are made and kept.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="With --laq: cpu, cuda, cuda:N or mps.")] = None,
    decode_workers: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="With --laq: threads that decode videos [default: one per core]."),
    ] = None,
    tolerance_s: ToleranceS = TOLERANCE_S,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="With --laq: episodes that cannot be decoded get confidence 0.")
    ] = False,
    mask_below_floor: Annotated[
        bool,
        typer.Option(
            "--mask-below-floor",
            help="Give dimensions that the decoder tells too badly confidence 0; LeRobot's own policies learn them all "
            "the same.",
        ),
    ] = False,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a dataset in which every episode has actions, recorded ones or those of a decoder.

    Recorded actions of the decoder's labelled episodes stay bit for bit; actions of others are not read. Killed or
    stopped, the same command continues. Under torchrun or srun every process writes its share.
    """
    if latents is None and laq is None:
        raise UserError(
            "nothing says where the latents are", where="--latents", fix="give a latent table, or --laq RUN to make it"
        )
    if is_left_to_job(decoder, latents, laq, allow_download=allow_download):
        return
    decoder = folder_of(decoder, "--decoder", allow_download=allow_download)
    latents = latents and folder_of(latents, "--latents", allow_download=allow_download)
    laq = laq and folder_of(laq, "--laq", allow_download=allow_download)
    from hlrp.data import read_dataset
    from hlrp.laq.checkpoint import read_manifest
    from hlrp.latents import LatentTable
    from hlrp.latents.actions import ActionDecoder
    from hlrp.latents.pseudo_label_identity import check_pseudo_labels
    from hlrp.latents.pseudo_labels import PseudoLabelRequest
    from hlrp.ranks import Ranks
    from hlrp.runs.directory import check_writable

    ranks = Ranks.of(os.environ)
    info = read_dataset(None, dataset_root, where="--dataset-root", tolerance_s=tolerance_s)
    loaded = ActionDecoder.load(decoder)
    for line in check_pseudo_labels(info, loaded.manifest, output, mask_below_floor=mask_below_floor):
        if ranks.rank == 0:
            typer.echo(f"warning: {line}", err=True)
    check_writable(output)
    table = LatentTable.open(latents) if latents is not None else None
    if is_only_checked():
        if laq is not None:
            read_manifest(laq)
        return
    if table is None:
        assert laq is not None, "one of them is given"
        made = _make_table(
            info, loaded.manifest, laq, ranks, device, skip_bad=skip_bad, decode_workers=decode_workers or 0
        )
        if made is None:
            _say(ranks, "latent table", json_output)
            return
        table, ranks = made
    request = PseudoLabelRequest(info, loaded, table, output, mask_below_floor, ranks)
    _show(_write(request), request, json_output)


def _make_table(
    info: "DatasetInfo",
    decoder: "DecoderManifest",
    laq: Path,
    ranks: "Ranks",
    device: str | None,
    *,
    skip_bad: bool,
    decode_workers: int,
) -> "tuple[LatentTable, Ranks] | None":
    """Label the dataset with the decoder's quantizer.

    Returns:
        The table, and who writes the dataset; None if other processes have yet to label their share: the last of them
        goes on, alone.
    """
    from hlrp.camera_names import known_as
    from hlrp.devices import choose_device
    from hlrp.latents import LatentTable
    from hlrp.latents.spec import describe
    from hlrp.latents.table import MANIFEST
    from hlrp.ranks import Ranks
    from hlrp_cli.latent_tables import cached_labelling, label_here, show_skipped

    chosen = choose_device(device, per_process=True)
    camera = known_as(decoder.camera, info.cameras, lambda line: typer.echo(line, err=True))
    request = cached_labelling(laq, info, camera, chosen, ranks, skip_bad=skip_bad)
    if differ := request.identity().codes(vectors=decoder.spec.vector_dim is not None).differences(decoder.spec):
        raise UserError(
            f"the decoder was fitted on latents of another quantizer ({describe(differ, '--laq', 'the decoder')})",
            where="--laq, --decoder",
            fix="give the run of the quantizer that made the decoder's latents",
        )
    shared = (request.output / MANIFEST).is_file()
    result = label_here(request, laq, chosen, decode_workers)
    show_skipped(result)
    return (LatentTable.open(result.output), ranks if shared else Ranks()) if result.complete else None


def _write(request: "PseudoLabelRequest") -> "PseudoLabelResult":
    from hlrp.latents.pseudo_labels import pseudo_label as write
    from hlrp.locks import FolderLock, LockedError
    from hlrp.progress import ProgressDisplay
    from hlrp_cli.console import console

    rank, world = request.ranks
    what = f"pseudo-labelling {request.info.repo_id}" + (f", process {rank + 1} of {world}" if world > 1 else "")
    # Beside the folder, which is renamed when it is complete.
    lock = FolderLock(request.output.absolute().parent, part=f"-{request.output.name}-{rank}-of-{world}")
    try:
        with lock, ProgressDisplay(console(), "frames") as display:
            display.begin(what, request.info.frames)
            return write(request, progress=lambda done, total: display.update(done, total=total))
    except LockedError as error:
        raise LockedError(error.what, where=str(request.output), fix=error.fix) from error


def _say(ranks: "Ranks", what: str, json_output: bool) -> None:
    if json_output:
        typer.echo(json.dumps({"complete": False}))
    else:
        typer.echo(f"process {ranks.rank + 1} of {ranks.world} is done; the last one to finish completes the {what}")


def _show(result: "PseudoLabelResult", request: "PseudoLabelRequest", json_output: bool) -> None:
    from hlrp.data.pseudo_label_checks import first_few

    if not result.complete:
        _say(request.ranks, "dataset", json_output)
        return
    manifest = request.decoder.manifest
    masked = [d.name for d in manifest.below_floor]
    recorded, predicted, unknown = result.frames
    if json_output:
        values: dict[str, Any] = {
            "complete": True,
            "output": str(result.output),
            "recorded_frames": recorded,
            "predicted_frames": predicted,
            "unknown_frames": unknown,
            "episodes_of_zeros": result.zeros,
            "masked": masked,
        }
        typer.echo(json.dumps(values))
        return
    typer.echo(f"actions  {recorded} frames recorded, {predicted} predicted, {unknown} neither (confidence 0)")
    if result.zeros:
        shown = first_few(result.zeros)
        typer.echo(f"zeros    episodes {shown} have no latent: policies that know no confidence need them left out")
    if len(masked) == len(manifest.dimensions):
        typer.echo("masked   every dimension: hlrp's own policies learn no action from predicted episodes")
    elif masked:
        shown = ", ".join(masked[:8]) + (f" and {len(masked) - 8} more" if len(masked) > 8 else "")
        typer.echo(
            f"masked   {shown}: confidence 0 in predicted episodes; LeRobot's own policies learn them all the same"
        )
    typer.echo(f"dataset  {result.output}")
