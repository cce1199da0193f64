"""The latents that a command makes or reads: labelling, shown as it goes, and tables that are kept in the cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hlrp.data import DatasetInfo
    from hlrp.latents import LatentTable
    from hlrp.latents.labelling import LabelProgress, LabelRequest, LabelResult
    from hlrp.ranks import Ranks


def usual_batch_size(device: str) -> int:
    """Windows to encode at a time.

    On a CPU what a larger batch allocates falls out of the cache: 256 windows at a time took 1.4 times as long as 32.
    """
    return 32 if device == "cpu" else 256


def cached_labelling(
    laq: Path, info: "DatasetInfo", camera: str | None, device: str, ranks: "Ranks", *, skip_bad: bool = False
) -> "LabelRequest":
    """The labelling that makes codes and continuous latents of a dataset in the cache, where others find them.

    Raises:
        UserError: No quantizer there, no such camera, or a cache in which nothing can be written.
    """
    from hlrp.catalog import cache_folder
    from hlrp.errors import UserError
    from hlrp.laq.checkpoint import read_manifest
    from hlrp.latents.labelling import LabelRequest, choose_camera
    from hlrp.runs.directory import check_writable

    manifest = read_manifest(laq)
    chosen = choose_camera(info, manifest, camera)
    name = info.repo_id.replace("/", "--")
    tables = cache_folder() / "latents"
    try:
        check_writable(tables)
    except UserError as error:
        fix = "set HLRP_CACHE to a folder that can be written"
        raise UserError(f"latents cannot be kept in the cache: {error.what}", where=error.where, fix=fix) from error
    mark = f"{info.fingerprint()[:12]}-{manifest.weights_sha256[:12]}"
    return LabelRequest(
        info=info,
        camera=chosen,
        output=tables / f"{name}-{chosen}-{mark}",
        config=manifest.config,
        laq_sha256=manifest.weights_sha256,
        vectors=True,
        batch_size=usual_batch_size(device),
        skip_bad=skip_bad,
        ranks=ranks,
    )


def vectors_of(laq: Path, info: "DatasetInfo", camera: str | None, device: str) -> "LatentTable":
    """The codes and continuous latents of a dataset, labelled now unless they are in the cache; resumable.

    Raises:
        UserError: No quantizer there, or no such camera.
        BadVideoError: An episode cannot be decoded.
    """
    from hlrp.latents import LatentTable
    from hlrp.ranks import Ranks

    return LatentTable.open(label_here(cached_labelling(laq, info, camera, device, Ranks()), laq, device).output)


def label_here(request: "LabelRequest", laq: Path, device: str, decode_workers: int = 0) -> "LabelResult":
    """Do this process's part of a labelling, and show how far it is.

    Args:
        request: What to label.
        laq: The quantizer.
        device: Where it encodes.
        decode_workers: Threads that decode; 0: one per core.

    Raises:
        UserError: As `label`, or another process is at the same part.
    """
    from hlrp.latents.labelling import label, load_encoder
    from hlrp.locks import FolderLock

    encoder, _ = load_encoder(laq, device, vectors=request.vectors)
    rank, world = request.ranks
    # The processes of one launch share the folder; a second launch would do the same work again.
    with FolderLock(request.output, part=f"-{rank}-of-{world}"), _progress(request) as report:
        return label(request, encoder, device=device, progress=report, workers=decode_workers)


def show_skipped(result: "LabelResult") -> None:
    """Name the episodes that could not be decoded."""
    from hlrp_cli.console import console

    for bad in result.bad:
        console().print(f"skipped episode {bad.episode}: {bad.path}: {bad.reason}", markup=False)


@contextmanager
def _progress(request: "LabelRequest") -> "Iterator[Callable[[LabelProgress], None]]":
    from hlrp.progress import ProgressDisplay
    from hlrp_cli.console import console

    rank, world = request.ranks
    what = f"labelling {request.info.repo_id}" + (f", process {rank + 1} of {world}" if world > 1 else "")
    with ProgressDisplay(console(), "frames") as display:
        display.begin(what, request.info.frames)
        yield lambda progress: display.update(progress.done, total=progress.total)
