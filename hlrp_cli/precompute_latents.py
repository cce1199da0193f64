"""`hlrp precompute-latents`: label every frame of a dataset with a latent action quantizer."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hlrp.data.dataset_info import TOLERANCE_S
from hlrp.data.video_backends import VideoBackend
from hlrp.errors import UserError
from hlrp.runs.published import folder_of
from hlrp_cli.flags import ToleranceS
from hlrp_cli.launching import is_left_to_job, is_only_checked

if TYPE_CHECKING:
    from hlrp.data import DatasetInfo
    from hlrp.latents.column import ColumnResult
    from hlrp.latents.labelling import LabelRequest, LabelResult

_KEPT_GB = 50.0


def precompute_latents(
    laq: Annotated[Path, typer.Option(help="Run of a quantizer, its checkpoint, or the folder of its weights.")],
    dataset_root: Annotated[Path | None, typer.Option(help="Folder of the dataset.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of a dataset that is on this machine.")] = None,
    camera: Annotated[str | None, typer.Option(help="Camera; the one it was trained on if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the table [default: RUN/latents/DATASET].")] = None,
    write_column: Annotated[
        Path | None, typer.Option(help="Also make this dataset: the same with a column latent_codes, videos linked.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="With --write-column: copy videos, do not link.")] = False,
    vectors: Annotated[bool, typer.Option("--vectors", help="Keep continuous latents too.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows to encode at a time [default: 32 on a CPU, else 256].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps.")] = None,
    tolerance_s: ToleranceS = TOLERANCE_S,
    decode_workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads that decode videos [default: one per core].")
    ] = None,
    video_backend: Annotated[VideoBackend | None, typer.Option(help="What decodes videos [default: pyav].")] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Read files as they come, and fetch those of --dataset meanwhile.")
    ] = False,
    cache_limit_gb: Annotated[
        float | None,
        typer.Option(min=1e-3, help="With --streaming: most that stays of what was fetched [default: 50]."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Mark what cannot be decoded invalid; go on.")] = False,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Fetch what is missing here.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write the codes of every frame of a dataset, each frame decoded once, into a latent table.

    Killed or stopped, the same command continues. Under torchrun or srun every process labels its share.
    """
    from hlrp.devices import choose_device
    from hlrp.runs.directory import check_writable

    if dataset is None and dataset_root is None:
        raise UserError("nothing says what to label", where="--dataset-root", fix="give the folder of a dataset")
    if cache_limit_gb is not None and not streaming:
        raise UserError("it has no effect without --streaming", where="--cache-limit-gb", fix="leave it out")
    if streaming and write_column is not None:
        raise UserError(
            "a dataset with a column needs all tables and videos here",
            where="--write-column",
            fix="leave one of them out",
        )
    if is_left_to_job(laq, allow_download=allow_download) or (is_only_checked() and streaming):
        return
    if streaming and dataset is not None and dataset_root is None:
        dataset_root = _streamed(dataset, allow_download=allow_download)
    found = folder_of(laq, "--laq", allow_download=allow_download)
    if found != laq and output is None:
        raise UserError("labels by a quantizer on the Hub need a folder", where="--output", fix="give a new folder")
    laq = found
    kept = (cache_limit_gb or _KEPT_GB) if streaming else None
    info = _dataset(dataset, dataset_root, tolerance_s, video_backend, kept)
    chosen = "cpu" if is_only_checked() else choose_device(device, per_process=True)
    from hlrp.latents.column import check_column
    from hlrp_cli.latent_tables import label_here, usual_batch_size

    windows = batch_size or usual_batch_size(chosen)
    request = _request(laq, info, camera, output, vectors, windows, video_backend, skip_bad)
    for folder in (request.output, write_column):
        if folder is not None:
            check_writable(folder)
    if write_column is not None:
        check_column(request.info, write_column, request.identity())
    if is_only_checked():
        return
    result = label_here(request, laq, chosen, decode_workers or 0)
    column = _write_column(result, request, write_column, copy) if write_column is not None else None
    _show(result, request, column, json_output)


def _streamed(dataset: str, *, allow_download: bool) -> Path:
    """The folder of a dataset that comes from the Hub while it is labelled, or that is here whole."""
    from hlrp.data.dataset_info import lerobot_home
    from hlrp.data.hub import fetch_dataset
    from hlrp_cli.console import console

    if not allow_download and not (lerobot_home() / dataset).is_dir():
        raise UserError(
            f"{dataset} would be fetched from the Hub, and nothing is downloaded unless asked",
            where="--streaming",
            fix="add --allow-download, or give a folder with --dataset-root",
        )
    return fetch_dataset(dataset, announce=console().print, streamed=True)


def _dataset(
    dataset: str | None, root: Path | None, tolerance_s: float, backend: VideoBackend | None, kept_gb: float | None
) -> "DatasetInfo":
    from hlrp.data import read_dataset, read_episodes

    info = read_dataset(
        dataset, root, where="--dataset-root", tolerance_s=tolerance_s, video_backend=backend, streamed_gb=kept_gb
    )
    # Now, while there is nothing else in memory: a large table of episodes takes 300 MiB to read, and few once read.
    read_episodes(info)
    return info


def _request(
    laq: Path,
    info: "DatasetInfo",
    camera: str | None,
    output: Path | None,
    vectors: bool,
    batch_size: int,
    video_backend: VideoBackend | None,
    skip_bad: bool,
) -> "LabelRequest":
    from hlrp.laq.checkpoint import read_manifest
    from hlrp.latents.labelling import LabelRequest, choose_camera, default_output
    from hlrp.ranks import Ranks
    from trainers.streaming_checks import refuse_pictures

    manifest = read_manifest(laq)
    chosen = choose_camera(info, manifest, camera)
    if video_backend is not None and info.features[chosen]["dtype"] != "video":
        raise UserError(
            f"{chosen} is kept as pictures in the dataset's tables, which no video decoder reads",
            where="--video-backend",
            fix="leave it out",
        )
    if info.stream is not None:
        refuse_pictures(info, [chosen], "--streaming")
    return LabelRequest(
        info=info,
        camera=chosen,
        output=output if output is not None else default_output(laq, info, chosen),
        config=manifest.config,
        laq_sha256=manifest.weights_sha256,
        vectors=vectors,
        batch_size=batch_size,
        skip_bad=skip_bad,
        ranks=Ranks.of(os.environ),
    )


def _write_column(result: "LabelResult", request: "LabelRequest", folder: Path, copy: bool) -> "ColumnResult | None":
    from hlrp.latents import LatentTable
    from hlrp.latents.column import write_column

    if not result.complete:
        return None  # the process that finishes the table writes the dataset
    return write_column(LatentTable.open(result.output), request.info, folder, copy=copy)


def _show(result: "LabelResult", request: "LabelRequest", column: "ColumnResult | None", json_output: bool) -> None:
    from hlrp_cli.latent_tables import show_skipped

    show_skipped(result)
    if json_output:
        values: dict[str, Any] = {
            "output": str(result.output),
            "complete": result.complete,
            "frames": result.frames,
            "kept": result.kept,
            "seconds": round(result.seconds, 3),
            "bad_episodes": sorted(bad.episode for bad in result.bad),
            "missing_shards": result.missing_shards,
            "dataset": str(column.output) if column is not None else None,
        }
        typer.echo(json.dumps(values))
        return
    rate = f" ({result.frames / result.seconds:.0f} frames/s)" if result.frames and result.seconds > 0 else ""
    kept = f", {result.kept} were there" if result.kept else ""
    typer.echo(f"labelled {result.frames} frames of {request.info.repo_id}{rate}{kept}")
    if result.complete:
        typer.echo(f"table    {result.output}")
    else:
        rank, world = request.ranks
        typer.echo(
            f"process {rank + 1} of {world} is done; {result.missing_shards} shards of the others are missing, and the "
            f"last one to finish completes the table"
        )
    if column is not None:
        typer.echo(f"dataset  {column.output}")
